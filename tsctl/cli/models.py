"""`tsctl models`: lists and changes the versions that one node or all nodes serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from handlers.contract import MOST_WORKERS
from tsctl.archive.store import StoredArchive, find_archive, import_archive
from tsctl.cli.context import open_deployment, open_one_node, select_nodes
from tsctl.cli.options import AllNodes, Json, Model, NodeOption, Version
from tsctl.cli.output import as_objects, print_done, print_json, print_table
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.config.spec import version_mistake
from tsctl.deploy.pulls import pull_version
from tsctl.errors import NodeError, SpecError, TsctlError
from tsctl.host.progress import Note, Progress
from tsctl.nodes.fan_out import NodeChange, NodeResult, combined_error, run_on_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observed import ObservedModel

app = typer.Typer(rich_markup_mode=None)

Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.1, max=86_400, help="Seconds until READY; the archive's startup timeout and a minute if left out."
    ),
]

Force = Annotated[
    bool, typer.Option("--force", help="Even if the running gateway sends it requests, or a rollout needs it.")
]


@app.command("list")
def list_models(node: NodeOption = None, all_nodes: AllNodes = False, json: Json = False) -> None:
    """List every registered version with its workers."""
    columns = ("model", "version", "default", "ready", "workers", "archive")
    nodes = select_nodes(node, all_nodes)[2]
    if not all_nodes:
        results = [NodeResult(nodes[0].name, _rows(nodes[0].models()))]
    else:
        results = run_on_nodes(nodes, lambda opened, note: _rows(opened.models()))
    reasons = {result.node: result.error.summary for result in results if result.error is not None}
    if json:
        nothing: tuple[tuple[object, ...], ...] = ((None,) * len(columns),)  # the one row of a node without an answer
        print_json(
            [
                {"node": result.node, **row, "reason": reasons.get(result.node, "")}
                for result in results
                for row in as_objects(columns, nothing if result.value is None else result.value)
            ]
        )
    elif not all_nodes:
        print_table(columns, results[0].value or ())
    else:
        print_table(("node", *columns), [(result.node, *row) for result in results for row in result.value or ()])
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


@app.command()
def describe(
    model: Model,
    version: Annotated[str | None, typer.Argument()] = None,
    node: NodeOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="It is always JSON; with this option, errors are as well.")
    ] = True,
) -> None:
    """Print the node's description of a model's versions as JSON."""
    _, _, opened = open_one_node(node)
    states = opened.describe(model, version)
    if not states:
        raise NodeError(
            f"{' '.join(filter(None, (model, version)))} is not registered on node {opened.name}",
            "See 'tsctl models list'.",
        )
    print_json(states)


@app.command()
def register(
    archive: Annotated[str, typer.Argument(metavar="MODEL:VERSION|FILE.mar")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=MOST_WORKERS, help="As the archive says if left out.")
    ] = None,
    as_version: Annotated[
        str | None, typer.Option("--as", metavar="VERSION", help="Under another version than the archive's own.")
    ] = None,
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Register an archive and wait until its workers are READY and warm; if that fails, unregister it again.

    With --all-nodes, a node that has it READY from the same bytes stays as it is, so the same command brings a node up
    to date that was unavailable.
    """
    if as_version is not None and (reason := version_mistake(as_version)):
        raise SpecError(f"{as_version!r} cannot be a version: {reason}", "Give --as another name.")
    project, deployment, nodes = select_nodes(node, all_nodes)
    stored = _stored(project, deployment, archive)
    version = stored.version if as_version is None else as_version

    def act(opened: Node, note: Note) -> NodeChange:
        if not all_nodes:
            opened.register(stored, version, workers, note, timeout)
            return NodeChange("registered", "ready")
        is_new = opened.ensure(stored, version, workers, note, timeout)
        state = opened.require_version(stored.model, version)
        return NodeChange(
            "registered" if is_new else "was registered", f"{state.ready} of {state.workers} workers ready"
        )

    change = Operation("register", f"registering {stored.model} {version}", stored.model, version, json)
    _change_nodes(nodes, all_nodes, change, act)


@app.command()
def scale(
    model: Model,
    version: Version,
    workers: Annotated[int, typer.Argument(metavar="WORKERS", min=0, max=MOST_WORKERS)],
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    timeout: Timeout = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Set the number of workers and wait until all are READY; dead ones are restarted.

    Refused where the version has weight and might have no READY worker left, and where its rollout needs it.
    """
    project, deployment, nodes = select_nodes(node, all_nodes)
    if not force:
        from tsctl.gateway.retire import require_workers
        from tsctl.gateway.state import open_gateway
        from tsctl.rollout.run.journal_files import require_none

        if not workers:
            require_none(project, model)
        if deployment.gateway is not None:
            require_workers(open_gateway(project, deployment), model, version, workers, {n.name for n in nodes})

    def act(opened: Node, note: Note) -> NodeChange:
        state = opened.scale(model, version, workers, note, timeout)
        return NodeChange("scaled", f"{state.ready} ready")

    change = Operation("scale", f"scaling {model} {version} to {workers}", model, version, json)
    _change_nodes(nodes, all_nodes, change, act)


@app.command("set-default")
def set_default(
    model: Model, version: Version, node: NodeOption = None, all_nodes: AllNodes = False, json: Json = False
) -> None:
    """Make a ready version answer callers that name none."""

    def act(opened: Node, note: Note) -> NodeChange:
        opened.set_default(model, version)
        return NodeChange("default")

    nodes = select_nodes(node, all_nodes)[2]
    if all_nodes or json:
        change = Operation("set-default", f"making {model} {version} the default", model, version, json)
        return _change_nodes(nodes, all_nodes, change, act)
    nodes[0].set_default(model, version)
    typer.echo(f"{model} {version} is the default on node {nodes[0].name}")


@app.command()
def unregister(
    model: Model,
    version: Version,
    node: NodeOption = None,
    all_nodes: AllNodes = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Remove a version and its workers from the node.

    Refused while the version has weight on the gateway, and while a rollout of the model has not ended.
    """

    def act(opened: Node, note: Note) -> NodeChange:
        return NodeChange("unregistered" if opened.unregister(model, version) else "was not registered")

    project, deployment, nodes = select_nodes(node, all_nodes)
    if not force:
        from tsctl.gateway.retire import require_no_weight
        from tsctl.gateway.state import open_gateway
        from tsctl.rollout.run.journal_files import require_none

        require_none(project, model)
        if deployment.gateway is not None:
            require_no_weight(open_gateway(project, deployment), model, version)
    change = Operation("unregister", f"unregistering {model} {version}", model, version, json)
    _change_nodes(nodes, all_nodes, change, act)


@app.command()
def retire(
    model: Model,
    version: Version,
    timeout: Annotated[float, typer.Option(min=0, max=86_400, help="Seconds for its open requests to end.")] = 60.0,
    force: Annotated[
        bool, typer.Option("--force", help="Also while a rollout of the model runs, which then rolls back.")
    ] = False,
    json: Json = False,
) -> None:
    """Take a version off its route, wait for its open requests, and unregister it from every node."""
    from tsctl.gateway.retire import retire as retire_version
    from tsctl.gateway.state import open_gateway
    from tsctl.rollout.run.journal_files import require_none

    project, deployment = open_deployment()
    if not force:
        require_none(project, model)
    with Progress().step(f"retiring {model} {version}") as step:
        ended = retire_version(open_gateway(project, deployment), model, version, timeout, step.note)
        step.done(f"gone from {', '.join(ended.gone)}" if ended.gone else "no node serves it")
    target = deployment.models.get(model)
    is_named = target is not None and version in target.versions
    document = {
        **{"operation": "retire", "model": model, "version": version, "is_in_deployment": is_named},
        "nodes": [
            *({"node": name, "outcome": "unregistered", "detail": ""} for name in ended.gone),
            *({"node": name, "outcome": "failed", "detail": reason} for name, reason in ended.failed),
        ],
    }
    if ended.failed:
        raise NodeError(
            f"{model} {version} has no route any more, and may still be registered:\n"
            + "\n".join(f"  node {name}: {reason}" for name, reason in ended.failed),
            "Run this again when the node answers.",
            document,
        )
    still = f"deployment.yaml still names {model} {version}: the next 'tsctl up' registers it again"
    print_done(document, [still] if is_named else [], json)


@dataclass(frozen=True)
class Operation:
    """A change of one version on nodes, as it is reported."""

    name: str
    title: str  # such as `registering digits 2.0`
    model: str
    version: str
    as_json: bool

    def document(self, rows: Sequence[tuple[str, str, str]]) -> dict[str, object]:
        """The JSON document, with a row for each node: its name, the outcome, and a detail."""
        named = {"operation": self.name, "model": self.model, "version": self.version}
        return {**named, "nodes": as_objects(("node", "outcome", "detail"), rows)}


def _change_nodes(
    nodes: Sequence[Node], all_nodes: bool, operation: Operation, act: Callable[[Node, Note], NodeChange]
) -> None:
    """Change the nodes and print the outcome: a table where all nodes were asked for, else a word about the only one.

    The JSON document has a row for each node, however many there are.

    Raises:
        TsctlError: it failed on the only node.
        NodeError: it failed on at least one of all nodes, after all were tried.
    """
    with Progress().step(operation.title) as step:
        if not all_nodes:
            rows = [_on_only_node(nodes[0], operation, act, step.note)]
            step.done(f"{rows[0][2] or rows[0][1]} on node {nodes[0].name}")
            return print_done(operation.document(rows), [], operation.as_json)
        results = run_on_nodes(nodes, act, step.note)
        step.done(f"done on {sum(result.error is None for result in results)} of {len(results)} nodes")
    rows = []
    for result in results:
        if result.value is not None:
            rows.append((result.node, result.value.outcome, result.value.detail))
        elif result.error is not None:
            rows.append((result.node, "failed", result.error.summary))
    if not operation.as_json:
        print_table(("node", "outcome", "detail"), rows)
    if error := combined_error(results, operation.title):
        error.document = operation.document(rows)
        raise error
    print_done(operation.document(rows), [], operation.as_json)


def _on_only_node(
    node: Node, operation: Operation, act: Callable[[Node, Note], NodeChange], note: Note
) -> tuple[str, str, str]:
    try:
        change = act(node, note)
    except TsctlError as error:
        error.document = operation.document([(node.name, "failed", error.summary)])
        raise
    return node.name, change.outcome, change.detail


def _stored(project: Project, deployment: DeploymentSpec, name: str) -> StoredArchive:
    """The archive in the store; a file from elsewhere is copied into it, and one that is missing pulled."""
    if name.endswith(".mar"):
        return import_archive(project, Path(name))
    model, colon, version = name.partition(":")
    if not colon or not version:
        raise SpecError(f"{name}: expected MODEL:VERSION, such as digits:2.0, or a file that ends with .mar")
    pull_version(project, deployment, model, version, Progress())
    return find_archive(project, model, version)
