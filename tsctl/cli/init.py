"""`tsctl init`: the files of a new project, or of a new model in one; `tsctl path`: files that the package carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_json


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Made if it is missing.")] = Path(),
    template: Annotated[
        str, typer.Option(help="The model to begin with: tabular, image, text, torchscript, or empty for none.")
    ] = "tabular",
    name: Annotated[str | None, typer.Option(help="Of the model; the template's own if left out.")] = None,
    json: Json = False,
) -> None:
    """Write a project that works at once, into an empty folder or a repository: 'tsctl up' builds and serves it.

    No file that is there is changed; .gitignore gets the lines that it lacks.
    """
    from tsctl.scaffold.files import write_files
    from tsctl.scaffold.project import deployment_lines, project_files, template_files

    models, files = template_files(template, name)
    written = write_files(folder, {**files, **project_files(models)})
    if json:
        added = {"made": written.made, "kept": written.kept, "added": written.added}
        return print_json({"folder": str(folder), "models": models, **added})
    for words, paths in (("made", written.made), ("kept", written.kept), ("added lines to", written.added)):
        for path in paths:
            typer.echo(f"{words} {path}")
    if models and "deployment.yaml" in written.kept:
        typer.echo(f"\nAdd the model to deployment.yaml, below models:\n\n{deployment_lines(models)}")
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    typer.echo(f"\nnext: {there}tsctl up" if models else f"\nnext: {there}tsctl init --template NAME")


def path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="constraints, config.properties, log4j2.xml or handlers")],
) -> None:
    """Print where a file lies that tsctl carries.

    constraints: the versions that tsctl was tested with, for pip's --constraint. config.properties and log4j2.xml: the
    settings of TorchServe nodes; a copy of them beside deployment.yaml is used in their place. handlers: the folder
    of the package that archives carry, for editors and type checkers.
    """
    from tsctl.scaffold.carried import carried

    typer.echo(carried(name))
