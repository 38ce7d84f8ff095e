"""`tsctl models`: what a node serves, and the management API's own verbs on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_one_node
from tsctl.cli.node import NodeOption
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.archive.store import StoredArchive
    from tsctl.project import Project

app = typer.Typer(help="List, register, scale and unregister model versions on a node.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(metavar="MODEL")]
Version = Annotated[str, typer.Argument(metavar="VERSION")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds until READY; the archive's startup timeout and a minute if left out.")
]


@app.command("list")
def list_models(node: NodeOption = None, json: Json = False) -> None:
    """Every registered version with its workers."""
    _, _, opened = open_one_node(node)
    states = opened.client.states()
    defaults = opened.client.models()
    rows = [
        (s.model, s.version, s.version == defaults.get(s.model), s.ready_workers, s.min_workers, s.archive)
        for s in states
    ]
    columns = ("model", "version", "default", "ready", "workers", "archive")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [(m, v, "yes" if d else "", r, w, a) for m, v, d, r, w, a in rows])


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
    timeout: Timeout = None,
) -> None:
    """Register an archive and wait until its workers are READY and warm; unregistered again if that fails."""
    from tsctl import versions
    from tsctl.progress import Progress

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
    timeout: Timeout = None,
) -> None:
    """Set the number of workers and wait until all are READY; dead ones are started anew."""
    from tsctl import versions
    from tsctl.progress import Progress

    _, _, opened = open_one_node(node)
    with Progress().step(f"scaling {model} {version} to {workers}") as step:
        state = versions.scale(opened, model, version, workers, step.note, timeout)
        step.done(f"{state.ready_workers} ready on node {opened.name}")


@app.command("set-default")
def set_default(model: Model, version: Version, node: NodeOption = None) -> None:
    """Make a ready version answer callers that name none."""
    from tsctl import versions

    _, _, opened = open_one_node(node)
    versions.set_default(opened, model, version)
    typer.echo(f"{model} {version} is the default on node {opened.name}")


@app.command()
def unregister(model: Model, version: Version, node: NodeOption = None) -> None:
    """Remove a version and its workers from the node."""
    from tsctl import versions
    from tsctl.progress import Progress

    _, _, opened = open_one_node(node)
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
    from tsctl.progress import Progress

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
    """The archive in the store; a file from elsewhere is copied into it under the store's own naming."""
    from tsctl.archive.store import find_archive, import_archive
    from tsctl.errors import SpecError

    if name.endswith(".mar"):
        return import_archive(project, Path(name))
    model, colon, version = name.partition(":")
    if not colon or not version:
        raise SpecError(f"{name}: expected MODEL:VERSION, such as digits:2.0, or a file that ends with .mar")
    return find_archive(project, model, version)
