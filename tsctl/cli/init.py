"""`tsctl init`: the files of a new project, or of a new model in one; `tsctl path`: files that the package carries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.options import Json
from tsctl.cli.output import print_json
from tsctl.errors import SpecError
from tsctl.host.progress import Progress


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Made if it is missing.")] = Path(),
    template: Annotated[
        str | None,
        typer.Option(
            help="The model to begin with: tabular (if left out), image, text, torchscript, sklearn, onnx, stock, or"
            " empty for none."
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE|FOLDER", help="A model that exists, in place of a template."),
    ] = None,
    sample: Annotated[
        list[Path] | None, typer.Option("--sample", metavar="FILE", help="A request that the model of --from takes.")
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py", help="The network that the weights of --from are for: build(settings) returns it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; that of the template or file if left out.")] = None,
    json: Json = False,
) -> None:
    """Write a project that works at once, into an empty folder or a repository: 'tsctl up' builds and serves it.

    No file that is there is changed; .gitignore gets the lines that it lacks. --from takes a .mar archive, a model in
    TorchScript, ONNX, skops, joblib, LightGBM, XGBoost or GGUF, a folder of Hugging Face, or weights. It proposes the
    handler, and makes the golden answers in the sandbox.
    """
    from tsctl.scaffold.begin import begin, begin_from
    from tsctl.scaffold.project import DEFAULT, deployment_lines

    if from_ is not None and template is not None:
        raise SpecError("--from and --template contradict each other", "Give one of the two.")
    if sample and from_ is None:
        raise SpecError("--sample is for the model of --from; a template has samples")
    if network and from_ is None:
        raise SpecError("--network is for the weights of --from; a template has a network")
    progress = Progress()
    begun = (
        begin(folder, template or DEFAULT, name)
        if from_ is None
        else begin_from(folder, from_, name, sample or [], progress, network)
    )
    if json:
        return print_json({"folder": str(folder), "models": begun.models, **asdict(begun.written)})
    written = begun.written
    for words, paths in (("made", written.made), ("kept", written.kept), ("added lines to", written.added)):
        for path in paths:
            typer.echo(f"{words} {path}")
    if begun.models and "deployment.yaml" in written.kept:
        typer.echo(f"\nAdd the model to deployment.yaml, below models:\n\n{deployment_lines(begun.models)}")
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    typer.echo(f"\nnext: {there}tsctl {'up' if begun.models else 'init --template NAME'}")


def path(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="constraints, config.properties, log4j2.xml, handlers or docs")
    ],
) -> None:
    """Print where a file lies that tsctl carries.

    constraints: the versions that tsctl was tested with, for pip's --constraint. config.properties and log4j2.xml: the
    settings of TorchServe nodes; a copy of them beside deployment.yaml is used in their place. handlers: the folder
    of the package that archives carry, for editors and type checkers. docs: the folder of these pages, to which README
    links.
    """
    from tsctl.scaffold.carried import carried

    typer.echo(carried(name))
