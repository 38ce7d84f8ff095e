"""`tsctl tune`: the settings of one archive that answer the most requests/s within a limit, found by few trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.options import Json

if TYPE_CHECKING:
    from tsctl.config.project import Project
    from tsctl.tune.result import Tuned
    from tsctl.tune.tune import Prepared


def tune(
    name: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]|FILE.mar", help="The first version if left out.")],
    slo_p99_ms: Annotated[
        float, typer.Option(min=0.001, max=3_600_000, help="Limit of the p99, which the settings must keep.")
    ],
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Points that are tried at most.")] = 24,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10_080, help="Minutes for all of it, the proof included.")
    ] = 10.0,
    engine: Annotated[
        list[str] | None, typer.Option(help="An engine; repeatable. Those of deployment.yaml if left out.")
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recorded requests, one JSON object a line; the samples if left out."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=3600, help="Seconds of the shortest loads; longer for a model of few requests/s."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the points that are tried.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be tried, and measure nothing.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write better settings into archive.yaml without asking.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The report; in .tsctl/tune if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the batch size, workers, threads and other settings that answer the most requests/s within --slo-p99-ms.

    Measures on nodes of its own, in a temporary folder; archives and nodes of the project stay as they are. The best
    settings are compared with the present ones in turn, and archive.yaml is changed only where they are better.
    """
    from tsctl.archive.named import file_of_name
    from tsctl.cli.output import print_json
    from tsctl.config.project import find_project
    from tsctl.errors import SpecError
    from tsctl.host.files import require_writable
    from tsctl.host.progress import Progress
    from tsctl.tune.tune import Options, prepare
    from tsctl.tune.tune import tune as search
    from tsctl.views.tune.report import lines, write_report

    if out is not None and out.suffix != ".html":
        raise SpecError(f"--out {out}: must end with .html; the JSON is written beside it")
    project, progress = find_project(), Progress()
    options = Options(
        slo_p99_ms, trials, minutes, list(dict.fromkeys(engine or ())), traffic, seconds, seed, is_resumed=resume
    )
    prepared = prepare(project, file_of_name(name, progress), options)
    if dry_run:
        return _print_space(prepared, json)
    if not json:
        typer.echo("\n".join(_space_lines(prepared)), err=True)
    folder = project.state / "tune"
    path = out or folder / f"{prepared.facts.names[0]}-{prepared.facts.names[1]}.html"
    require_writable(path)
    try:
        tuned = search(project, prepared, options, progress, folder)
    except KeyboardInterrupt:
        progress.line("interrupted; the same command with --resume goes on")
        raise
    write_report(path, tuned)
    if not json:
        typer.echo("\n".join(lines(tuned)))
        typer.echo(f"written to {project.relative(path)}")
    written = _write(project, tuned, write, may_ask=not json)
    if json:
        print_json({**tuned.as_json(), "report": project.relative(path), "written": written})


def _space_lines(prepared: Prepared) -> list[str]:
    space = prepared.space
    return [f"now: {space.present.text}", *space.lines(), f"{space.size} combinations"]


def _print_space(prepared: Prepared, as_json: bool) -> None:
    from dataclasses import asdict

    from tsctl.cli.output import print_json

    if as_json:
        print_json({**asdict(prepared.space), "points": prepared.space.size, "source": prepared.source})
    else:
        typer.echo("\n".join([*_space_lines(prepared), f"measured with {prepared.source}"]))


def _write(project: Project, tuned: Tuned, is_told: bool, may_ask: bool) -> str | None:
    """Change archive.yaml where the search found something, and say what else is to be done.

    Returns:
        The path of the file that was changed; None where none was.
    """
    import sys

    from tsctl.archive.build import sound_archive_folders
    from tsctl.errors import ConflictError
    from tsctl.host.files import write_public
    from tsctl.tune.tune import settings_for_archive
    from tsctl.tune.write import edited

    verdict, setting = tuned.verdict, tuned.setting
    settings = settings_for_archive(tuned)
    if not verdict.is_better or verdict.chosen is None:
        return None
    if verdict.chosen.engine != setting.present.engine:
        typer.echo(f"deployment.yaml says which engine a node has: engine: {verdict.chosen.engine}", err=True)
    folders, _ = sound_archive_folders(project)
    if not settings or setting.model not in folders:
        return None
    folder, spec = folders[setting.model]
    path = folder / "archive.yaml"
    before = path.read_text(encoding="utf-8")
    if setting.version not in spec.versions:
        return None
    after = edited(path, before, spec, setting.version, settings)
    if not is_told:
        changes = ", ".join(f"{name}: {value}" for name, value in settings.items())
        if not (may_ask and sys.stdin.isatty()):
            typer.echo(f"not written: {changes}; --write puts it into {project.relative(path)}", err=True)
            return None
        if not typer.confirm(f"write {changes} into {project.relative(path)}?", err=True):
            return None
    if path.read_text(encoding="utf-8") != before:
        raise ConflictError(f"{path} was changed meanwhile", "Run it again with --resume --write.")
    write_public(path, after)
    typer.echo(
        f"{project.relative(path)} changed; build it: tsctl archive build {setting.model}:{setting.version}", err=True
    )
    if "workers" in settings and _deployed_workers(project, setting.model, setting.version) is not None:
        typer.echo(
            f"deployment.yaml has workers of {setting.model} {setting.version} too, and they count: change them"
            f" to {settings['workers']}",
            err=True,
        )
    return project.relative(path)


def _deployed_workers(project: Project, model: str, version: str) -> int | None:
    from tsctl.config.deployment import read_deployment

    if not project.deployment.is_file():
        return None
    target = read_deployment(project.deployment).models.get(model)
    return target.workers(version) if target and version in target.versions else None
