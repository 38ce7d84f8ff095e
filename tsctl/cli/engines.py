"""`tsctl engines`: list, install and compare the engines that serve archives."""

from __future__ import annotations

import sys
from dataclasses import astuple
from typing import Annotated

import typer

from tsctl.cli.compare import compare
from tsctl.cli.options import Json
from tsctl.cli.output import print_json, print_rows
from tsctl.config.project import find_project
from tsctl.host.progress import Progress

app = typer.Typer(rich_markup_mode=None)
app.command()(compare)


@app.command("list")
def list_known(json: Json = False) -> None:
    """List the engines: which are installed, their versions, megabytes on disk, and what they need."""
    from tsctl.nodes.environments import list_engines

    rows = [astuple(row) for row in list_engines(find_project())]
    print_rows(("engine", "installed", "version", "MB", "needs"), rows, json)


@app.command()
def install(
    names: Annotated[list[str], typer.Argument(metavar="ENGINE...", help="bentoml, ray, triton or vllm.")],
    again: Annotated[bool, typer.Option("--again", help="Make the environment again even if it exists.")] = False,
    json: Json = False,
) -> None:
    """Install engines into environments of their own, .tsctl/engines/ENGINE, with uv if it is on PATH, else with pip.

    An environment is made completely or not at all; Ctrl-C is safe, and the next try reuses finished downloads.
    """
    from tsctl.nodes.environments import find_engine, shared_version
    from tsctl.nodes.install import install as install_engine

    project, progress = find_project(), Progress()
    here = {name: found for name in dict.fromkeys(names) if (found := shared_version(name)) is not None}
    engines = [find_engine(name) for name in dict.fromkeys(names) if name not in here]
    rows = [{"engine": name, "version": found, "path": sys.prefix} for name, found in here.items()]
    for name, found in here.items() if not json else ():
        typer.echo(f"{name} {found} is installed already, in tsctl's own environment")
    for engine in engines:
        made = install_engine(project, engine, progress, again)
        rows.append({"engine": engine.name, "version": made.version, "path": str(made.folder)})
        if not json:
            where = f"{project.relative(project.state)}/engines/{engine.name}"
            typer.echo(f"{engine.name} {made.version} is installed in {where}")
    if json:
        print_json(rows)
