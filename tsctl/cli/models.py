"""`tsctl models`: lists and changes the versions that one node or all nodes serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_one_node, select_nodes
from tsctl.cli.fan_out import AllNodes, change_nodes
from tsctl.cli.node import NodeOption
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.archive.store import StoredArchive
    from tsctl.config.project import Project
    from tsctl.host.progress import Note
    from tsctl.nodes.observe import ObservedModel
    from tsctl.nodes.torchserve.node import Node

app = typer.Typer(
    help="List, register, scale and unregister model versions on one node or on all.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
Version = Annotated[str, typer.Argument(metavar="VERSION")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds until READY; the archive's startup timeout and a minute if left out.")
]


@app.command("list")
def list_models(node: NodeOption = None, all_nodes: AllNodes = False, json: Json = False) -> None:
    """List every registered version with its workers."""
    from tsctl.nodes.fan_out import combined_error, run_on_nodes
    from tsctl.nodes.observe import observe_models

    columns = ("model", "version", "default", "ready", "workers", "archive")
    nodes = select_nodes(node, all_nodes)[2]
    if not all_nodes:
        rows = _rows(observe_models(nodes[0]))
        if json:
            print_json([dict(zip(columns, row, strict=True)) for row in rows])
        else:
            print_table(columns, [_with_yes(row) for row in rows])
        return
    results = run_on_nodes(nodes, lambda opened, note: _rows(observe_models(opened)))
    reasons = {result.node: result.error.summary for result in results if result.error is not None}
    if json:
        print_json(
            [
                {
                    "node": result.node,
                    "reason": reasons.get(result.node, ""),
                    "versions": [dict(zip(columns, row, strict=True)) for row in result.value or ()],
                }
                for result in results
            ]
        )
    else:
        rows = [(result.node, *_with_yes(row)) for result in results for row in result.value or ()]
        print_table(("node", *columns), rows)
        for name, reason in reasons.items():
            typer.echo(f"\nnode {name} does not answer: {reason}")
    if error := combined_error(results, "listing"):
        raise error


def _rows(models: Mapping[str, ObservedModel]) -> list[tuple[object, ...]]:
    """Model, version, whether it is the default, ready workers, workers and archive of every version."""
    return [
        (model, version, version == observed.default, state.ready, state.workers, state.archive)
        for model, observed in models.items()
        for version, state in observed.versions.items()
    ]


def _with_yes(row: tuple[object, ...]) -> tuple[object, ...]:
    model, version, is_default, *rest = row
    return (model, version, "yes" if is_default else "", *rest)


@app.command()
def describe(model: Model, version: Annotated[str | None, typer.Argument()] = None, node: NodeOption = None) -> None:
    """Print the node's description of a model's versions as JSON."""
    from tsctl.errors import NodeError

    _, _, opened = open_one_node(node)
    states = opened.client.describe(model, version)
    if not states:
        raise NodeError(
            f"{' '.join(filter(None, (model, version)))} is not registered on node {opened.name}",
            "See 'tsctl models list'.",
        )
    print_json(
        [{**asdict(state), "ready_workers": state.ready_workers, "is_ready": state.is_ready} for state in states]
    )


@app.command()
def register(
    archive: Annotated[str, typer.Argument(metavar="MODEL:VERSION|FILE.mar")],
    workers: Annotated[int | None, typer.Option(min=1, help="As the archive says if left out.")] = None,
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    timeout: Timeout = None,
) -> None:
    """Register an archive and wait until its workers are READY and warm; if that fails, unregister it again.

    With --all-nodes, a node that has it READY from the same bytes stays as it is, so the same command brings a node up
    to date that was unavailable.
    """
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    project, _, nodes = select_nodes(node, all_nodes)
    stored = _stored(project, archive)

    def act(opened: Node, note: Note) -> NodeChange:
        if not all_nodes:
            versions.register(opened, stored, workers, note, timeout)
            return NodeChange("registered", "ready")
        is_new = versions.ensure(opened, stored, workers, note, timeout)
        [state] = opened.client.describe(stored.model, stored.version)
        return NodeChange(
            "registered" if is_new else "was registered", f"{state.ready_workers} of {state.min_workers} workers ready"
        )

    change_nodes(nodes, all_nodes, f"registering {stored.model} {stored.version}", act)


@app.command()
def scale(
    model: Model,
    version: Version,
    workers: Annotated[int, typer.Argument(metavar="WORKERS", min=0)],
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    timeout: Timeout = None,
) -> None:
    """Set the number of workers and wait until all are READY; dead ones are restarted."""
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    def act(opened: Node, note: Note) -> NodeChange:
        state = versions.scale(opened, model, version, workers, note, timeout)
        return NodeChange("scaled", f"{state.ready_workers} ready")

    change_nodes(select_nodes(node, all_nodes)[2], all_nodes, f"scaling {model} {version} to {workers}", act)


@app.command("set-default")
def set_default(model: Model, version: Version, node: NodeOption = None, all_nodes: AllNodes = False) -> None:
    """Make a ready version answer callers that name none."""
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    def act(opened: Node, note: Note) -> NodeChange:
        versions.set_default(opened, model, version)
        return NodeChange("default")

    nodes = select_nodes(node, all_nodes)[2]
    if all_nodes:
        return change_nodes(nodes, all_nodes, f"making {model} {version} the default", act)
    versions.set_default(nodes[0], model, version)
    typer.echo(f"{model} {version} is the default on node {nodes[0].name}")


@app.command()
def unregister(
    model: Model,
    version: Version,
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even where it has weight on a route of the running gateway.")
    ] = False,
) -> None:
    """Remove a version and its workers from the node; refused while the version has weight on the gateway."""
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    def act(opened: Node, note: Note) -> NodeChange:
        return NodeChange("unregistered" if versions.unregister(opened, model, version) else "was not registered")

    project, deployment, nodes = select_nodes(node, all_nodes)
    if deployment.gateway is not None and not force:
        from tsctl.gateway.retire import require_no_weight
        from tsctl.gateway.state import open_gateway

        require_no_weight(open_gateway(project, deployment), model, version)
    change_nodes(nodes, all_nodes, f"unregistering {model} {version}", act)


@app.command()
def retire(
    model: Model,
    version: Version,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for its open requests to end.")] = 60.0,
) -> None:
    """Take a version off its route, wait for its open requests, and unregister it from every node."""
    from tsctl.cli.context import open_deployment
    from tsctl.errors import NodeError
    from tsctl.gateway.retire import retire as retire_version
    from tsctl.gateway.state import open_gateway
    from tsctl.host.progress import Progress

    project, deployment = open_deployment()
    with Progress().step(f"retiring {model} {version}") as step:
        ended = retire_version(open_gateway(project, deployment), model, version, timeout, step.note)
        step.done(f"gone from {', '.join(ended.gone)}" if ended.gone else "no node serves it")
    if ended.failed:
        raise NodeError(
            f"{model} {version} has no route any more, and may still be registered:\n"
            + "\n".join(f"  node {name}: {reason}" for name, reason in ended.failed),
            "Run this again when the node answers.",
        )
    target = deployment.models.get(model)
    if target is not None and version in target.versions:
        typer.echo(f"deployment.yaml still names {model} {version}: the next 'tsctl up' registers it again")


def _stored(project: Project, name: str) -> StoredArchive:
    """The archive in the store; a file from elsewhere is copied into it under the store's naming."""
    from tsctl.archive.store import find_archive, import_archive
    from tsctl.errors import SpecError

    if name.endswith(".mar"):
        return import_archive(project, Path(name))
    model, colon, version = name.partition(":")
    if not colon or not version:
        raise SpecError(f"{name}: expected MODEL:VERSION, such as digits:2.0, or a file that ends with .mar")
    return find_archive(project, model, version)
