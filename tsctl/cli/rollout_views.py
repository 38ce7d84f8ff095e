"""`tsctl rollout status|watch|history|explain|report`: shows rollouts; nothing is changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.cli.models import Json, Model
from tsctl.cli.output import print_json

AnyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="All models if left out.")]
Id = Annotated[
    str | None, typer.Argument(metavar="ID", help="As 'tsctl rollout history' shows it; the last one if left out.")
]

#: Exit code of `watch` if the rollout was not promoted.
NOT_PROMOTED = 10


def status(model: AnyModel = None, json: Json = False) -> None:
    """Show where a rollout stands.

    Shows weight, requests, rates with intervals, e-values, and what is still needed. With MODEL, its last rollout, even
    if it has ended; without, all rollouts in progress.
    """
    import time

    from tsctl.config.project import find_project
    from tsctl.rollout.run.journal import find_journal, read, unfinished_journals
    from tsctl.views.rollout.follow import as_json, snapshot
    from tsctl.views.rollout.status import render_status
    from tsctl.views.terminal import new_console

    project = find_project()
    paths = unfinished_journals(project) if model is None else [find_journal(project, model)]
    rollouts = [now for path in paths if (now := snapshot(read(path))) is not None]
    if json:
        states = [as_json(now.state) for now in rollouts]
        print_json(states[0] if model is not None else states)
        return
    for number, now in enumerate(rollouts):
        typer.echo("\n" if number else "", nl=False)
        new_console().print(render_status(now, time.time()))
    if not rollouts:
        typer.echo("no rollout is in progress; 'tsctl rollout history' shows those that have ended")


def watch(model: Model, json: Json = False) -> None:
    """Watch a rollout until it ends.

    Ctrl-C stops watching and changes nothing. On a terminal the status is refreshed; anywhere else, and with --json,
    each event is a line. The exit code is 0 if the canary was promoted, and 10 if not.
    """
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.events import Outcome
    from tsctl.rollout.run.journal import find_journal
    from tsctl.views.rollout.watch import watch_lines, watch_picture
    from tsctl.views.terminal import new_console

    path = find_journal(find_project(), model)
    console = new_console()
    state = watch_picture(path, console) if console.is_terminal and not json else watch_lines(path, json)
    if state.outcome is not Outcome.PROMOTED:
        raise typer.Exit(NOT_PROMOTED)


def history(model: AnyModel = None, json: Json = False) -> None:
    """List every rollout, the oldest first.

    Shows how it ended, what failed it, and how long it took.
    """
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
        print_json([asdict(rollout) for rollout in rollouts])
    elif rollouts:
        print_table(history_table(rollouts))
    elif not damaged:
        typer.echo(f"no rollout{f' of {model}' if model else ''} yet; to begin one: tsctl rollout start MODEL VERSION")
    if damaged:
        raise AnalysisError("\n".join(error.message for error in damaged), damaged[0].hint)


def explain(model: Model, id: Id = None, json: Json = False) -> None:
    """Explain a rollout in sentences.

    Shows every decision with its reason, numbers and time, and what to do next.
    """
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.state import fold
    from tsctl.rollout.run.journal import find_journal, read
    from tsctl.views.rollout.narrative import story
    from tsctl.views.rollout.tables import evidence_tables
    from tsctl.views.rollout.wording import when
    from tsctl.views.terminal import print_table, print_wrapped

    entries = read(find_journal(find_project(), model, id))
    told = story(entries)
    if json:
        print_json(asdict(told))
        return
    state = fold(entries)
    typer.echo(f"{told.title}, rollout {state.id}\n")
    print_wrapped(told.rule)
    typer.echo()
    for line in told.told:
        print_wrapped(line.text, f"{when(line.at)}  ")
        if line.judgement is not None and line.alpha is not None:
            for table in evidence_tables(line.judgement, line.alpha, state.stable, state.canary):
                typer.echo()
                print_table(table, indent=4)
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
    """Write a rollout as one HTML file with plots.

    The file needs no network and no other file.
    """
    from tsctl.config.project import find_project
    from tsctl.rollout.run.journal import find_journal, read
    from tsctl.views.rollout.report import SUFFIX, write_report

    project = find_project()
    path = find_journal(project, model, id)
    written = out or path.with_suffix(SUFFIX)
    write_report(written, read(path))
    typer.echo(project.relative(written))
