"""`tsctl rollout status|watch|history|explain|report`: shows rollouts; nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.models import Json, Model
from tsctl.cli.output import print_json

if TYPE_CHECKING:
    from tsctl.config.project import Project

AnyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="All models if left out.")]
Id = Annotated[
    str | None, typer.Argument(metavar="ID", help="As 'tsctl rollout history' shows it; the last one if left out.")
]

#: Exit code of `watch` if the rollout was not promoted.
NOT_PROMOTED = 10


def status(model: AnyModel = None, json: Json = False) -> None:
    """Show where a rollout stands: weight, requests, rates with intervals, e-values, and what is still needed.

    With MODEL, its last rollout, even if it has ended; without, all rollouts in progress.
    """
    import time

    from tsctl.config.project import find_project
    from tsctl.rollout.decide.state import as_json
    from tsctl.rollout.run.journal import read
    from tsctl.views.rollout.follow import snapshot
    from tsctl.views.rollout.status import render_status
    from tsctl.views.terminal import print_renderable

    project = find_project()
    paths = _unfinished(project) if model is None else [_journal(project, model)]
    rollouts = [now for path in paths if (now := snapshot(read(path))) is not None]
    if json:
        states = [as_json(now.state) for now in rollouts]
        print_json(states[0] if model is not None else states)
        return
    for number, now in enumerate(rollouts):
        typer.echo("\n" if number else "", nl=False)
        print_renderable(render_status(now, time.time()))
    if not rollouts:
        typer.echo("no rollout is in progress; 'tsctl rollout history' shows those that have ended")


def watch(model: Model, json: Json = False) -> None:
    """Watch a rollout until it ends; Ctrl-C stops watching and changes nothing.

    On a terminal the status is refreshed; anywhere else, and with --json, each event is a line. The exit code is 0 if
    the canary was promoted, and 10 if not.
    """
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.events import Outcome
    from tsctl.views.rollout.watch import watch_lines, watch_picture
    from tsctl.views.terminal import new_console

    path = _journal(find_project(), model)
    console = new_console()
    state = watch_picture(path, console) if console.is_terminal and not json else watch_lines(path, json)
    if state.outcome is not Outcome.PROMOTED:
        raise typer.Exit(NOT_PROMOTED)


def history(model: AnyModel = None, json: Json = False) -> None:
    """List every rollout, the oldest first: how it ended, by which signal, and how long it took."""
    from tsctl.config.project import find_project
    from tsctl.errors import AnalysisError
    from tsctl.rollout.run.journal import journals, read
    from tsctl.views.rollout.history import summary
    from tsctl.views.rollout.tables import history_table
    from tsctl.views.terminal import print_table

    rollouts, damaged = [], []
    for path in journals(find_project(), model):
        try:
            entries = read(path)
        except AnalysisError as error:
            damaged.append(error)
            continue
        if entries:  # else its first line was cut off by a kill, and nothing was begun
            rollouts.append(summary(entries))
    if json:
        print_json([rollout.as_json() for rollout in rollouts])
    elif rollouts:
        print_table(history_table(rollouts))
    elif not damaged:
        typer.echo(f"no rollout{f' of {model}' if model else ''} yet; to begin one: tsctl rollout start MODEL VERSION")
    if damaged:
        raise AnalysisError("\n".join(error.message for error in damaged), damaged[0].hint)


def explain(model: Model, id: Id = None, json: Json = False) -> None:
    """Explain a rollout in sentences: every decision with its reason, numbers and time, and what to do next."""
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.state import fold
    from tsctl.rollout.run.journal import read
    from tsctl.views.rollout.narrative import story
    from tsctl.views.rollout.tables import rates_table, signals_table
    from tsctl.views.rollout.wording import when
    from tsctl.views.terminal import print_table, print_wrapped

    entries = read(_journal(find_project(), model, id))
    told = story(entries)
    if json:
        print_json(told.as_json())
        return
    state = fold(entries)
    typer.echo(f"{told.title}, rollout {state.id}\n")
    print_wrapped(told.rule)
    typer.echo()
    for line in told.told:
        print_wrapped(line.text, f"{when(line.at)}  ")
        if line.judgement is not None and line.alpha is not None:
            typer.echo()
            print_table(signals_table(line.judgement, line.alpha), indent=4)
            typer.echo()
            print_table(rates_table(line.judgement.readings, state.stable, state.canary), indent=4)
            typer.echo()
    typer.echo()
    for sentence in (told.outcome, *told.advice):
        print_wrapped(sentence)


def report(
    model: Model,
    id: Id = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the file; beside the journal, in .tsctl/rollouts, if left out.")
    ] = None,
) -> None:
    """Write a rollout as one HTML file with plots, which needs no network and no other file."""
    from tsctl.config.project import find_project
    from tsctl.rollout.run.journal import read
    from tsctl.views.rollout.report import SUFFIX, write_report

    project = find_project()
    path = _journal(project, model, id)
    written = out or path.with_suffix(SUFFIX)
    write_report(written, read(path))
    typer.echo(project.relative(written))


def _journal(project: Project, model: str, id: str | None = None) -> Path:
    """The journal of that rollout, or of the model's last one.

    Args:
        id: whole, or as many of its first characters as no other has.

    Raises:
        AnalysisError: there is none, or several begin so.
    """
    from tsctl.errors import AnalysisError
    from tsctl.rollout.run.journal import journals

    paths = [path for path in journals(project, model) if _has_begun(path)]
    if not paths:
        raise AnalysisError(f"there is no rollout of {model}", f"Begin one: tsctl rollout start {model} VERSION")
    if id is None:
        return paths[-1]
    found = [path for path in paths if path.stem == id] or [path for path in paths if path.stem.startswith(id)]
    if len(found) != 1:
        raise AnalysisError(
            f"{len(found) or 'no'} rollouts of {model} begin with {id}", f"See 'tsctl rollout history {model}'."
        )
    return found[0]


def _has_begun(path: Path) -> bool:
    """Whether the first line is whole; a kill may have cut it off, and then nothing was begun."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _unfinished(project: Project) -> list[Path]:
    """Journals of rollouts that have not ended.

    Raises:
        AnalysisError: there was no rollout ever.
    """
    from tsctl.errors import AnalysisError
    from tsctl.rollout.run.journal import folder, journals, unfinished

    models = sorted({path.parent.name for path in journals(project)})
    if not models:
        raise AnalysisError("there is no rollout", "Begin one: tsctl rollout start MODEL VERSION")
    ids = {model: unfinished(project, model) for model in models}
    return [folder(project, model) / f"{name}.jsonl" for model, name in ids.items() if name is not None]
