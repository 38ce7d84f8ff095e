"""`tsctl archive add`, `golden` and `convert`: archives that others made, and the right answers to requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.options import Json, NodeOption, TrustPickles
from tsctl.cli.output import plural, print_json, print_rows
from tsctl.config.project import Project, find_project
from tsctl.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tsctl.archive.store import StoredArchive
    from tsctl.config.deployment import ModelTarget
    from tsctl.host.progress import Progress
    from tsctl.nodes.node import Node


def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.mar...")],
    sample: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A request to the model, kept in archives/<model>/samples; of one FILE.mar."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy archives that were made elsewhere into archives/store, each as the current one of its version."""
    from tsctl.archive.known import keep_samples
    from tsctl.archive.store import import_archive

    project = find_project()
    if sample and len(files) > 1:
        raise SpecError("--sample is of one archive, and several were given", "Add that archive alone.")
    added = [import_archive(project, file) for file in files]
    for archive in added:
        keep_samples(project, archive.model, sample or [])
    if json:
        rows = [(*archive.key, archive.digest, str(archive.path)) for archive in added]
        return print_rows(("model", "version", "digest", "path"), rows, json)
    for archive in added:
        typer.echo(archive.path.name)
    for line in (*_lacking(added), *_unnamed(project, added)):
        typer.echo(line, err=True)


def _lacking(added: Sequence[StoredArchive]) -> Iterator[str]:
    """What becomes of the requirements in the archives."""
    from tsctl.archive.checks import stock_requirements
    from tsctl.archive.container import open_archive
    from tsctl.archive.inspect import read_facts

    for archive in added:
        with open_archive(archive.path) as content:
            if lacks := stock_requirements(content, read_facts(content)):
                yield f"{archive.model} {archive.version}: {lacks}"


def _unnamed(project: Project, added: Sequence[StoredArchive]) -> list[str]:
    """What to write into deployment.yaml, so that the archives are served."""
    from tsctl.config.deployment import read_deployment

    try:
        named = read_deployment(project.deployment).models
    except SpecError as error:
        return [f"whether they are served is not known: {error.summary}"]
    missing = [archive for archive in added if not _is_named(archive, named.get(archive.model))]
    if not missing:
        return []
    models: dict[str, list[str]] = {}
    for archive in missing:
        models.setdefault(archive.model, []).append(archive.version)
    lines = [f"{model}: versions {', '.join(versions)}" for model, versions in models.items() if model in named]
    for model, versions in models.items():
        if model not in named:
            each = ", ".join(f'"{version}": {{workers: 1}}' for version in versions)
            lines.append(f'{model}: {{default: "{versions[0]}", versions: {{{each}}}}}')
    return ["to have them served, add to `models` of deployment.yaml:", *(f"  {line}" for line in lines)]


def _is_named(archive: StoredArchive, target: ModelTarget | None) -> bool:
    """Whether deployment.yaml names a version that is served from the archive's version."""
    return target is not None and archive.version in {target.archive(version) for version in target.versions}


def golden(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL[:VERSION]]...", help="All, if left out.")] = None,
    from_node: Annotated[
        bool,
        typer.Option("--from-node", help="Record what a node answers now, by default with the version in force there."),
    ] = False,
    node: NodeOption = None,
    trust_pickles: TrustPickles = False,
    json: Json = False,
) -> None:
    """Write the present answers to the samples as golden answers; review the difference before you commit it.

    The samples of an archive that tsctl did not build lie in archives/<model>/samples.
    """
    from tsctl.archive.sandbox import why_open
    from tsctl.cli.context import open_one_node
    from tsctl.host.progress import Progress

    progress = Progress()
    if node is not None and not from_node:
        raise SpecError(f"--node {node} says whose answers are recorded", "Give --from-node as well.")
    if from_node:
        project, _, opened = open_one_node(node)
        rows = _from_node(project, opened, names, progress)
    else:
        if reason := why_open():
            progress.line(f"the samples run with your rights and not in a sandbox: {reason}")
        rows = _from_sandbox(find_project(), names, trust_pickles, progress)
    if json:
        return print_rows(("model", "version", "sample"), rows, json)
    for row in rows:
        typer.echo(" ".join(row))


Row = tuple[str, str, str]  # model, version and a sample whose golden answer changed


def _from_node(project: Project, node: Node, names: list[str] | None, progress: Progress) -> list[Row]:
    from tsctl.archive.known import known
    from tsctl.archive.recording import record_golden
    from tsctl.archive.store import archive_of

    served = node.models()
    rows: list[Row] = []
    for name in names if names is not None else list(served):
        model, _, version = name.partition(":")
        if model not in served:
            raise SpecError(f"node {node.name} serves no {model}", f"It serves {', '.join(served) or 'nothing'}.")
        version = version or served[model].default or ""
        if version not in served[model].versions:
            there = ", ".join(served[model].versions)
            raise SpecError(f"node {node.name} does not serve {model} {version}".rstrip(), f"It serves {there}.")
        archive = archive_of(project.store / served[model].versions[version].archive)
        found = known(archive.path)
        if names is None and not (found.is_kept and found.samples):
            continue  # an archive that tsctl built has its own answers, and without samples there is nothing to ask
        with progress.step(f"answers of {model} {version} on node {node.name}") as step:
            changed = record_golden(
                project,
                archive,
                lambda samples: [
                    (reply.status, reply.body)
                    for _, body, kind in samples
                    for reply in [node.predict(model, version, body, kind)]  # noqa: B023 - asked before the next turn
                ],
            )
            step.done(_changed(changed))
        rows += [(model, version, each) for each in changed]
    return rows


def _from_sandbox(project: Project, names: list[str] | None, trust_pickles: bool, progress: Progress) -> list[Row]:
    from tsctl.archive.build import select_versions, sound_archive_folders
    from tsctl.archive.golden import make_golden
    from tsctl.archive.known import known
    from tsctl.archive.recording import ask_in_sandbox, record_golden
    from tsctl.archive.store import find_archive, list_archives
    from tsctl.archive.trust import stated_trust

    folders, trust_of = sound_archive_folders(project)[0], stated_trust(project)
    stored = dict.fromkeys(archive.key for archive in list_archives(project))
    stock = [key for key in stored if key[0] not in folders or key[1] not in folders[key[0]][1].versions]
    named = [] if names is None else [name for name in names if any(name in (m, f"{m}:{v}") for m, v in stock)]
    built = None if names is None else [name for name in names if name not in named or name in folders]
    rows: list[Row] = []
    if built or (built is None and (folders or not stock)):
        for (model, version), (folder, spec) in select_versions(project, built).items():
            with progress.step(f"golden answers of {model} {version}") as step:
                changed = make_golden(folder, spec, version, step.note, trust_of(model))
                step.done(_changed(changed))
            rows += [(model, version, each) for each in changed]
    for model, version in stock:
        archive = find_archive(project, model, version)
        if names is None and not known(archive.path).samples:
            continue
        if names is not None and model not in names and f"{model}:{version}" not in names:
            continue
        with progress.step(f"golden answers of {model} {version}") as step:
            changed = record_golden(project, archive, ask_in_sandbox(archive, trust_pickles, trust_of))
            step.done(_changed(changed))
        rows += [(model, version, each) for each in changed]
    return rows


def _changed(names: Sequence[str]) -> str:
    return f"{plural(len(names), 'answer')} changed" if names else "unchanged"


def convert(
    name: Annotated[str, typer.Argument(metavar="FILE.mar|MODEL[:VERSION]")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="To write; archives/<model> if left out.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the new archive; the next one if left out.")] = None,
    sample: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="One more request to the model.")] = None,
    json: Json = False,
) -> None:
    """Write the folder of an archive that calls the steps of a stock archive's handler, a subclass of BaseHandler.

    What cannot be carried over is listed. Exit code 3, and no folder, if the handler is no such class.
    """
    from tsctl.archive.convert import convert as convert_archive
    from tsctl.archive.named import file_of_name
    from tsctl.archive.store import require_readable
    from tsctl.config.spec import version_mistake
    from tsctl.host.progress import Progress

    if version is not None and (mistake := version_mistake(version)):
        raise SpecError(f"--version {version}: {mistake}")
    path = file_of_name(name, Progress())
    made = convert_archive(path, to or find_project().archives / require_readable(path)[0], version, sample or [])
    if json:
        rows = [{"line": each.line, "text": each.text} for each in made.left_out]
        return print_json(
            {
                "model": made.model, "version": made.version, "folder": str(made.folder), "samples": made.samples,
                "has_golden": made.has_golden, "left_out": rows,
            }
        )  # fmt: skip
    typer.echo(f"{made.folder}: {made.model} {made.version}")
    for finding in made.left_out:
        typer.echo(f"  left out: {finding}")
    steps = [] if made.samples else [f"put requests into {made.folder / 'samples'}"]
    steps += [] if made.has_golden else [f"tsctl archive golden {made.model}:{made.version}"]
    steps += [
        f"tsctl archive build {made.model}:{made.version}",
        f"tsctl archive diff {path} {made.model}:{made.version}",
    ]
    for step in steps:
        typer.echo(f"  next: {step}")
