"""`tsctl rollout status|watch|history|explain|report`: what people see of a rollout; all of it only reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.models import Json, Model
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tsctl.config.project import Project
    from tsctl.rollout.decide.judge import Judgement
    from tsctl.rollout.decide.state import State

AnyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="All models if left out.")]
Id = Annotated[
    str | None, typer.Argument(metavar="ID", help="As 'tsctl rollout history' shows it; the last one if left out.")
]

#: How often `watch` looks into the journal, in seconds.
WATCH_S = 0.5
#: Columns of what is printed into a file or a pipe; nothing is cut off there.
PLAIN_WIDTH = 160
#: Exit code where a rollout that was watched did not end with a promotion.
NOT_PROMOTED = 10


def status(model: AnyModel = None, json: Json = False) -> None:
    """Where a rollout stands: weight, requests, rates with intervals, e-values, and what is still needed.

    Of one model, the last rollout, also where it has ended; of all models, those that have not.
    """
    import time

    from tsctl.config.project import find_project
    from tsctl.rollout.decide.state import as_json
    from tsctl.rollout.run.journal import read
    from tsctl.views.rollout.follow import snapshot
    from tsctl.views.rollout.status import picture

    project = find_project()
    paths = _unfinished(project) if model is None else [_journal(project, model)]
    found = [now for path in paths if (now := snapshot(read(path))) is not None]
    if json:
        shown = [as_json(now.state) for now in found]
        print_json(shown[0] if model is not None else shown)
        return
    for number, now in enumerate(found):
        typer.echo("\n" if number else "", nl=False)
        _print(picture(now, time.time()))
    if not found:
        typer.echo("no rollout is in progress; 'tsctl rollout history' shows those that have ended")


def watch(model: Model, json: Json = False) -> None:
    """Watch a rollout until it ends; Ctrl-C ends the watching and nothing else.

    On a terminal a picture that is refreshed, else a line for each thing that happens; JSON with --json. The exit code
    is 0 when it was promoted, and 10 when it was not.
    """
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.events import Outcome

    path = _journal(find_project(), model)
    console = _console()
    state = _watch_picture(path, console) if console.is_terminal and not json else _watch_lines(path, json)
    if state.outcome is not Outcome.PROMOTED:
        raise typer.Exit(NOT_PROMOTED)


def history(model: AnyModel = None, json: Json = False) -> None:
    """Every rollout, the oldest first: how it ended, by which signal, and how much it took."""
    from tsctl.config.project import find_project
    from tsctl.errors import AnalysisError
    from tsctl.rollout.run.journal import journals, read
    from tsctl.views.rollout.history import summary
    from tsctl.views.rollout.wording import duration, when

    found, damaged = [], []
    for path in journals(find_project(), model):
        try:
            entries = read(path)
        except AnalysisError as error:
            damaged.append(error)
            continue
        if entries:  # else its first line was cut off by a kill, and nothing was begun
            found.append(summary(entries))
    if json:
        print_json([one.as_json() for one in found])
    else:
        columns = ("id", "model", "from", "to", "outcome", "by", "requests", "lasted", "began")
        rows = [
            (
                one.id,
                one.model,
                one.stable,
                one.canary,
                one.outcome,
                one.signal,
                one.requests,
                duration(one.lasted_s),
                when(one.began_at),
            )
            for one in found
        ]
        if rows:
            print_table(columns, rows)
        elif not damaged:
            typer.echo(f"no rollout{f' of {model}' if model else ''} yet; tsctl rollout start MODEL VERSION begins one")
    if damaged:
        raise AnalysisError("\n".join(error.message for error in damaged), damaged[0].hint)


def explain(model: Model, id: Id = None, json: Json = False) -> None:
    """Tell a rollout in sentences: every decision with its reason, its numbers and its time, and what to do next."""
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.state import fold
    from tsctl.rollout.run.journal import read
    from tsctl.views.rollout.narrative import story
    from tsctl.views.rollout.wording import when

    entries = read(_journal(find_project(), model, id))
    told = story(entries)
    if json:
        print_json(told.as_json())
        return
    state = fold(entries)
    typer.echo(f"{told.title}, rollout {state.id}\n")
    _echo(told.rule)
    typer.echo("")
    for line in told.told:
        _echo(line.text, f"{when(line.at)}  ")
        if line.judgement is not None and line.alpha is not None:
            _print_evidence(line.judgement, line.alpha, state)
    typer.echo("")
    for sentence in (told.outcome, *told.advice):
        _echo(sentence)


def report(
    model: Model,
    id: Id = None,
    out: Annotated[
        Path | None, typer.Option(help="Written here; beside the journal, in .tsctl/rollouts, if left out.")
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


def _watch_picture(path: Path, console: Console) -> State:
    """The state at the end, after a picture was kept fresh all the time."""
    import time

    from rich.live import Live

    from tsctl.views.rollout.follow import Tail, snapshot
    from tsctl.views.rollout.status import picture

    tail, now = Tail(path), None
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = snapshot(tail.new(), now)
            if now is not None:
                live.update(picture(now, time.time()), refresh=True)
                if now.state.outcome is not None:
                    return now.state
            time.sleep(WATCH_S)


def _watch_lines(path: Path, is_json: bool) -> State:
    """The state at the end, after everything that happened was printed, a line each."""
    import json
    import time
    from dataclasses import asdict

    from tsctl.rollout.decide.state import after
    from tsctl.views.rollout.follow import Tail
    from tsctl.views.rollout.narrative import Narrator, outcome
    from tsctl.views.rollout.wording import when

    tail, narrator = Tail(path), Narrator()
    while True:
        for entry in tail.new():
            for line in narrator.narrate(entry, after(narrator.state, entry)):
                typer.echo(json.dumps(asdict(line)) if is_json else f"{when(line.at)}  {line.text}")
        if narrator.state is not None and narrator.state.outcome is not None:
            if not is_json:
                typer.echo(outcome(narrator.state))
            return narrator.state
        time.sleep(WATCH_S)


def _print_evidence(judgement: Judgement, alpha: float, state: State) -> None:
    """What a verdict stands on, below its sentence."""
    from rich.padding import Padding

    from tsctl.views.rollout.status import rates_table, signals_table

    for table in (signals_table(judgement, alpha), rates_table(state.stable, state.canary, judgement.readings)):
        typer.echo("")
        _print(Padding(table, (0, 0, 0, 4), expand=False))
    typer.echo("")


def _print(shown: RenderableType) -> None:
    """On a terminal with colours; anywhere else as plain lines without spaces at their ends."""
    console = _console()
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _console() -> Console:
    """Colours and the terminal's width on a terminal, neither anywhere else."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def _echo(text: str, before: str = "") -> None:
    """Wrapped on a terminal, with later lines under the first; one line anywhere else."""
    import shutil
    import sys
    import textwrap

    if sys.stdout.isatty():
        width = min(120, shutil.get_terminal_size().columns)
        text = textwrap.fill(text, max(40, width - len(before)), break_long_words=False)
        text = text.replace("\n", "\n" + " " * len(before))
    typer.echo(before + text)
