"""`tsctl rollout`: releases that promote or roll back by themselves, on evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json, Model, Version
from tsctl.cli.output import print_json
from tsctl.cli.rollout_plan import plan
from tsctl.cli.rollout_views import explain, history, report, status, watch

if TYPE_CHECKING:
    from tsctl.host.progress import Note
    from tsctl.rollout.decide.events import Command, Entry
    from tsctl.rollout.decide.state import State
    from tsctl.rollout.run.begin import Place
    from tsctl.rollout.run.runner import Runner

app = typer.Typer(help="Release a version step by step, and have it promoted or rolled back.", no_args_is_help=True)

#: Exit codes of a rollout that was not promoted; errors have their own.
ROLLED_BACK, UNDECIDED = 10, 11


@app.command()
def start(
    model: Model,
    version: Version,
    workers: Annotated[
        int | None, typer.Option(min=1, help="On each node; what deployment.yaml or the archive says if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Release a version: register it everywhere, give it more and more requests, promote it or roll it back.

    Ends with 0 when it was promoted, 10 when it was rolled back, 11 when a person must say how to go on. Where this
    process is ended, 'tsctl rollout resume' goes on.
    """
    from tsctl.rollout.run.begin import started

    place = _place()
    target = place.deployment.models.get(model)
    if workers is None and target is not None and version in target.versions:
        workers = target.workers(version)
    _run(f"releasing {model} {version}", lambda note: started(place, model, version, workers, note), json)


@app.command()
def resume(model: Model, json: Json = False) -> None:
    """Go on with a rollout that was paused, or whose process has ended."""
    from tsctl.rollout.decide.events import Command
    from tsctl.rollout.run.begin import resumed

    if _is_asked(model, Command.RESUME, json):
        return
    place = _place()
    _run(f"releasing {model}", lambda note: resumed(place, model, note), json)


@app.command()
def pause(model: Model, json: Json = False) -> None:
    """Take no further step; a canary that fails is rolled back all the same."""
    from tsctl.config.project import find_project
    from tsctl.errors import AnalysisError
    from tsctl.rollout.decide.events import Command
    from tsctl.rollout.run.journal import unfinished

    if not _is_asked(model, Command.PAUSE, json):
        waiting = unfinished(find_project(), model)
        raise AnalysisError(
            f"no process runs the rollout {waiting}, so it does not go forward"
            if waiting
            else f"no rollout of {model} is in progress",
            f"See 'tsctl rollout status {model}'." if waiting else "See 'tsctl rollout history'.",
        )


@app.command()
def abort(model: Model, json: Json = False) -> None:
    """Give stable all requests again, and end the rollout; exit code 10."""
    from tsctl.rollout.decide.events import Command

    _end(model, Command.ABORT, json)


@app.command()
def promote(model: Model, json: Json = False) -> None:
    """Skip what is left of the steps: the canary gets all requests, and becomes stable."""
    from tsctl.rollout.decide.events import Command

    _end(model, Command.PROMOTE, json)


@app.command()
def rollback(model: Model, json: Json = False) -> None:
    """Go back to what was stable before, also after a promotion; exit code 10."""
    from tsctl.config.project import find_project
    from tsctl.rollout.decide.events import Command
    from tsctl.rollout.run.begin import taken_back
    from tsctl.rollout.run.journal import unfinished

    if unfinished(find_project(), model) is not None:
        return _end(model, Command.ROLLBACK, json)
    place = _place()
    _run(f"taking {model} back", lambda note: taken_back(place, model, note), json)


for view in (plan, status, watch, history, explain, report):
    app.command()(view)


def _end(model: str, command: Command, json: bool) -> None:
    """Ask the process that runs the rollout, or do it here where none does."""
    from tsctl.rollout.run.begin import resumed

    if _is_asked(model, command, json):
        return
    place = _place()
    _run(f"{command} of {model}", lambda note: resumed(place, model, note, command), json)


def _is_asked(model: str, command: Command, json: bool) -> bool:
    """Whether a process runs the rollout, and was asked; that needs no deployment.yaml without a mistake."""
    from tsctl.config.project import find_project
    from tsctl.rollout.run import commands as control
    from tsctl.rollout.run.begin import is_running

    project = find_project()
    if not is_running(project, model):
        return False
    control.ask(project, model, command)
    if json:
        print_json({"model": model, "asked": command})
    else:
        typer.echo(f"asked the rollout of {model} to {command}; see 'tsctl rollout watch {model}'")
    return True


def _place() -> Place:
    from tsctl.rollout.run.begin import open_place

    return open_place(*open_deployment())


def _run(title: str, opened: Callable[[Note], AbstractContextManager[Runner]], json: bool) -> None:
    """Run the rollout to its end, or to where a person must say how to go on; told as it goes."""
    from tsctl.config.project import find_project
    from tsctl.errors import AnalysisError
    from tsctl.host.progress import Progress
    from tsctl.rollout.decide.events import Effect, EffectBegan, Outcome
    from tsctl.rollout.decide.state import as_json
    from tsctl.views.rollout.narrative import Narrator
    from tsctl.views.rollout.report import SUFFIX, write_report

    progress, narrator = Progress(), Narrator()

    def heard(entry: Entry, state: State) -> None:
        is_short = isinstance(entry.event, EffectBegan) and entry.event.effect is not Effect.VERIFY
        for sentence in narrator.narrate(entry, state):
            if not is_short:  # its end is told a moment later
                progress.line(f"  {sentence.text}")

    with progress.step(title) as step, opened(step.note) as runner:
        runner.heard = heard
        state = runner.run()
        step.done(state.outcome or "undecided")
    report = runner.journal.path.with_suffix(SUFFIX)
    try:
        write_report(report, runner.journal.entries)
    except AnalysisError as error:  # how the rollout ended is what the exit code says
        progress.line(f"  {error.message}; 'tsctl rollout report {state.model}' writes it again")
    if json:
        print_json(as_json(state))
    else:
        _print_end(state, find_project().relative(report))
        for sentence in _deployment_says(state):
            typer.echo(sentence)
    if state.outcome is None:
        raise typer.Exit(UNDECIDED)
    if state.outcome is not Outcome.PROMOTED:
        raise typer.Exit(ROLLED_BACK)


def _print_end(state: State, report: str) -> None:
    what = state.outcome or "undecided"
    why = f": {state.why}" if state.why else ""
    typer.echo(f"{state.model} {state.canary} {what}{why}")
    typer.echo(f"'tsctl rollout explain {state.model}' tells what it stands on, and {report} shows it")


def _deployment_says(state: State) -> list[str]:
    """What deployment.yaml still says otherwise, after a promotion or its taking back; what is wrong with it."""
    from tsctl.errors import SpecError

    stable = state.canary if state.weight else state.stable
    try:
        target = open_deployment()[1].models.get(state.model)
    except SpecError as error:  # the rollout has ended all the same, and its exit code says how
        return [f"deployment.yaml cannot be read: {error.message}"]
    if state.outcome is None or target is None:
        return []
    found = []
    if stable not in target.versions:
        found.append(f"deployment.yaml does not name {state.model} {stable}: add it to the model's versions")
    if target.default != stable:
        found.append(
            f"deployment.yaml still has {target.default} as the default of {state.model}: make it {stable}, or"
            " 'tsctl apply' takes it back"
        )
    return found
