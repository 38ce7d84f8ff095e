"""`tsctl archive`: build, verify, inspect and list archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.output import print_json, print_table
from tsctl.project import find_project

if TYPE_CHECKING:
    from tsctl.project import Project

app = typer.Typer(help="Build, verify, inspect and list .mar archives.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]]...", help="All, if left out.")]


@app.command()
def build(names: Names = None, json: Json = False) -> None:
    """Build archives into archives/store; the same inputs give the same bytes."""
    from tsctl.archive.build import build_versions
    from tsctl.progress import Progress

    project = find_project()
    built = build_versions(project, _versions(project, names), Progress())
    if json:
        rows = [(b.archive.model, b.archive.version, b.archive.digest, str(b.archive.path), b.is_new) for b in built]
        print_json([dict(zip(("model", "version", "digest", "path", "is_new"), row, strict=True)) for row in rows])
        return
    for made in built:
        for name in made.superseded:
            typer.echo(f"{name} is of the same version and stays in the store")
    if not any(made.is_new for made in built):
        typer.echo(f"nothing to build: {len(built)} archives are current")


@app.command("list")
def list_stored(json: Json = False) -> None:
    """Every archive in the store, and which one its version means."""
    from tsctl.archive.store import find_archive, list_archives

    project = find_project()
    rows = [
        (a.model, a.version, a.digest, a == find_archive(project, a.model, a.version), a.path.stat().st_size)
        for a in list_archives(project)
    ]
    columns = ("model", "version", "digest", "current", "bytes")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [(m, v, d, "yes" if c else "", size) for m, v, d, c, size in rows])


def _versions(project: Project, names: list[str] | None) -> list[tuple[str, str]]:
    """(model, version) pairs that the names mean; a model alone means all its versions."""
    from tsctl.archive.build import read_archive_folders
    from tsctl.errors import SpecError

    folders = read_archive_folders(project)
    every = [(model, version) for model, (_, spec) in folders.items() for version in spec.versions]
    if not every:
        raise SpecError(f"no archives/*/archive.yaml in {project.root}", "See docs/writing-a-handler.md.")
    wanted = []
    for name in names or list(folders):
        model, _, version = name.partition(":")
        found = [pair for pair in every if pair[0] == model and version in ("", pair[1])]
        if not found:
            raise SpecError(f"no archive.yaml names {name}", f"There are: {', '.join(':'.join(pair) for pair in every)}.")
        wanted += found
    return wanted
