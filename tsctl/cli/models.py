"""`tsctl models`: what nodes serve, and the management API's own verbs on one of them or on all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_all_nodes, open_one_node
from tsctl.cli.fan_out import AllNodes, change_on_nodes
from tsctl.cli.node import NodeOption
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.archive.store import StoredArchive
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.config.project import Project
    from tsctl.host.progress import Note
    from tsctl.nodes.fan_out import NodeChange
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
    """Every registered version with its workers."""
    columns = ("model", "version", "default", "ready", "workers", "archive")
    if all_nodes:
        return _list_on_nodes(node, columns, json)
    _, _, opened = open_one_node(node)
    rows = _registered(opened)
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [_shown(row) for row in rows])


@app.command()
def describe(model: Model, version: Annotated[str | None, typer.Argument()] = None, node: NodeOption = None) -> None:
    """What the node says of a model's versions, as JSON."""
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
    """Register an archive and wait until its workers are READY and warm; unregistered again if that fails.

    With --all-nodes, a node that has it READY from the same bytes stays as it is, so that the same command catches up
    on a node that was away.
    """
    from tsctl.host.progress import Progress
    from tsctl.nodes.torchserve import versions

    if all_nodes:
        project, _, nodes = open_all_nodes(node)
        stored = _stored(project, archive)
        return change_on_nodes(
            nodes,
            f"registering {stored.model} {stored.version}",
            lambda opened, note: _ensure(opened, stored, workers, note, timeout),
        )
    project, _, opened = open_one_node(node)
    stored = _stored(project, archive)
    with Progress().step(f"registering {stored.model} {stored.version}") as step:
        versions.register(opened, stored, workers, step.note, timeout)
        step.done(f"ready on node {opened.name}")


@app.command()
def scale(
    model: Model,
    version: Version,
    workers: Annotated[int, typer.Argument(metavar="WORKERS", min=0)],
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    timeout: Timeout = None,
) -> None:
    """Set the number of workers and wait until all are READY; dead ones are started anew."""
    from tsctl.host.progress import Progress
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    if all_nodes:

        def act(opened: Node, note: Note) -> NodeChange:
            state = versions.scale(opened, model, version, workers, note, timeout)
            return NodeChange("scaled", f"{state.ready_workers} ready")

        return change_on_nodes(open_all_nodes(node)[2], f"scaling {model} {version} to {workers}", act)
    _, _, opened = open_one_node(node)
    with Progress().step(f"scaling {model} {version} to {workers}") as step:
        state = versions.scale(opened, model, version, workers, step.note, timeout)
        step.done(f"{state.ready_workers} ready on node {opened.name}")


@app.command("set-default")
def set_default(model: Model, version: Version, node: NodeOption = None, all_nodes: AllNodes = False) -> None:
    """Make a ready version answer callers that name none."""
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    if all_nodes:

        def act(opened: Node, note: Note) -> NodeChange:
            versions.set_default(opened, model, version)
            return NodeChange("default")

        return change_on_nodes(open_all_nodes(node)[2], f"making {model} {version} the default", act)
    _, _, opened = open_one_node(node)
    versions.set_default(opened, model, version)
    typer.echo(f"{model} {version} is the default on node {opened.name}")


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
    """Remove a version and its workers from the node; refused while the gateway sends requests to it by weight."""
    from tsctl.host.progress import Progress
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    if all_nodes:

        def act(opened: Node, note: Note) -> NodeChange:
            return NodeChange("gone" if versions.unregister(opened, model, version) else "was not registered")

        project, deployment, nodes = open_all_nodes(node)
        _require_no_weight(project, deployment, model, version, force)
        return change_on_nodes(nodes, f"unregistering {model} {version}", act)
    project, deployment, opened = open_one_node(node)
    _require_no_weight(project, deployment, model, version, force)
    with Progress().step(f"unregistering {model} {version}") as step:
        was_there = versions.unregister(opened, model, version)
        step.done(f"gone from node {opened.name}" if was_there else "was not registered")


@app.command()
def retire(
    model: Model,
    version: Version,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for what is on its way to it to end.")] = 60.0,
) -> None:
    """Take a version off its route, wait until nothing is on its way to it, and unregister it from every node."""
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


def _require_no_weight(project: Project, deployment: DeploymentSpec, model: str, version: str, is_forced: bool) -> None:
    if deployment.gateway is None or is_forced:
        return
    from tsctl.gateway.retire import require_no_weight
    from tsctl.gateway.state import open_gateway

    require_no_weight(open_gateway(project, deployment), model, version)


def _ensure(node: Node, stored: StoredArchive, workers: int | None, note: Note, timeout_s: float | None) -> NodeChange:
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve import versions

    is_new = versions.ensure(node, stored, workers, note, timeout_s)
    [state] = node.client.describe(stored.model, stored.version)
    return NodeChange(
        "registered" if is_new else "was registered", f"{state.ready_workers} of {state.min_workers} workers ready"
    )


def _registered(node: Node) -> list[tuple[str, str, bool, int, int, str]]:
    """Model, version, whether it is the default, ready workers, workers and archive of every version."""
    from tsctl.nodes.observe import observe_models

    return [
        (model, version, version == served.default, state.ready, state.workers, state.archive)
        for model, served in observe_models(node).items()
        for version, state in served.versions.items()
    ]


def _shown(row: tuple[str, str, bool, int, int, str]) -> tuple[object, ...]:
    model, version, is_default, *rest = row
    return (model, version, "yes" if is_default else "", *rest)


def _list_on_nodes(named: str | None, columns: tuple[str, ...], is_json: bool) -> None:
    from tsctl.nodes.fan_out import combined_error, run_on_nodes

    ended = run_on_nodes(open_all_nodes(named)[2], lambda opened, note: _registered(opened))
    why_not = {one.node: one.error.summary for one in ended if one.error is not None}
    if is_json:
        print_json(
            [
                {
                    "node": one.node,
                    "reason": why_not.get(one.node, ""),
                    "versions": [dict(zip(columns, row, strict=True)) for row in one.value or ()],
                }
                for one in ended
            ]
        )
    else:
        print_table(("node", *columns), [(one.node, *_shown(row)) for one in ended for row in one.value or ()])
        for name, why in why_not.items():
            typer.echo(f"\nnode {name} does not tell: {why}")
    if error := combined_error(ended, "listing"):
        raise error


def _stored(project: Project, name: str) -> StoredArchive:
    """The archive in the store; a file from elsewhere is copied into it under the store's own naming."""
    from tsctl.archive.store import find_archive, import_archive
    from tsctl.errors import SpecError

    if name.endswith(".mar"):
        return import_archive(project, Path(name))
    model, colon, version = name.partition(":")
    if not colon or not version:
        raise SpecError(f"{name}: expected MODEL:VERSION, such as digits:2.0, or a file that ends with .mar")
    return find_archive(project, model, version)
