"""`tsctl export`: writes an archive in the form in which another server takes models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_done

if TYPE_CHECKING:
    from tsctl.archive.libraries import Libraries
    from tsctl.config.deployment import VersionTarget

app = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="MODEL[:VERSION]|FILE.mar", help="The first version if left out.")]
Target = Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to make; it must not exist.")]


@app.callback()
def callback() -> None:
    """Write an archive in the form in which another server takes models."""


@app.command()
def bentoml(name: Name, to: Target, json: Json = False) -> None:
    """Write a folder that 'bentoml serve' and 'bentoml build' take; it needs no tsctl."""
    from tsctl.nodes.bentoml.export import export

    _export(name, to, export, f"bentoml serve --working-dir {to}", json)


@app.command()
def ray(name: Name, to: Target, json: Json = False) -> None:
    """Write a folder that 'serve run' and 'serve deploy' of Ray Serve take; it needs no tsctl.

    Its serve.yaml has the workers and the `ray` settings of the version in deployment.yaml, where there is one.
    """
    from tsctl.nodes.ray.export import export

    def with_settings(archive: Path, folder: Path) -> Libraries:
        return export(archive, folder, _wanted(archive))

    _export(name, to, with_settings, f"cd {to} && serve run serve.yaml", json)


@app.command()
def triton(
    name: Name,
    to: Target,
    gpus: Annotated[
        int, typer.Option(min=0, help="Number of GPUs among which the workers are divided; 0: the CPU.")
    ] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="The model takes whole HTTP bodies, not tensors.")] = False,
    json: Json = False,
) -> None:
    """Write a model repository that tritonserver serves with its python backend; it needs no tsctl."""
    from tsctl.nodes.triton.export import export

    command = f"tritonserver --model-repository {to}"
    _export(name, to, lambda archive, folder: export(archive, folder, gpus, raw), command, json)


def _wanted(archive: Path) -> VersionTarget | None:
    """What deployment.yaml says of an archive's version; None where it does not name it."""
    from tsctl.archive.store import require_readable
    from tsctl.config.deployment import read_deployment
    from tsctl.config.project import find_project
    from tsctl.errors import SpecError

    try:
        project = find_project()
    except SpecError:  # a file outside of any project
        return None
    if not project.deployment.is_file():
        return None
    model, version = require_readable(archive)
    target = read_deployment(project.deployment).models.get(model)
    return target.versions.get(version) if target is not None else None


def _export(name: str, to: Path, export: Callable[[Path, Path], Libraries], command: str, as_json: bool) -> None:
    """Write the folder, and print the modules whose package is unknown and the command that serves it."""
    from tsctl.archive.named import file_of_name
    from tsctl.host.progress import Progress

    progress = Progress()
    archive = file_of_name(name, progress)
    with progress.step(f"exporting {archive.name}") as step:
        missing = export(archive, to).missing
        step.done(str(to))
    required = to / "requirements.txt"
    lines = [f"add the package of module {module} to {required}: it is not installed here" for module in missing]
    document = {"archive": archive.name, "path": str(to), "missing": list(missing), "command": command}
    print_done(document, [*lines, f"pip install -r {required}, then: {command}"], as_json)
