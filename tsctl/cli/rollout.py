"""`tsctl rollout`: releases that promote or roll back by themselves, on evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer

from tsctl.cli.context import open_deployment, open_gateway_here
from tsctl.cli.options import Json, Model, TrustPickles, Version
from tsctl.cli.output import plural, print_json
from tsctl.cli.rollout_views import exit_code, explain, history, plan, report, status, watch
from tsctl.config.project import find_project
from tsctl.deploy.pulls import pull_files, pull_target
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.backend import is_on_cluster
from tsctl.host.progress import Note, Progress
from tsctl.rollout.cluster.begin import OpenedCluster, resumed_on_cluster, started_on_cluster
from tsctl.rollout.decide.events import Command, Effect, EffectBegan, Entry, Outcome
from tsctl.rollout.decide.state import State, start_of
from tsctl.rollout.run.begin import is_running, reopened, resumed, started
from tsctl.rollout.run.commands import OpenedSpec, send
from tsctl.rollout.run.journal import Journal, find_journal, unfinished
from tsctl.rollout.run.runner import Runner
from tsctl.views.rollout.follow import as_json
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.narrative import Narrator
from tsctl.views.rollout.outlook import deployment_hints
from tsctl.views.rollout.report import SUFFIX, write_report

app = typer.Typer(rich_markup_mode=None)


@app.command()
def start(
    model: Model,
    version: Version,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Per node; by default as deployment.yaml or the archive says.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, max=31_536_000, metavar="SECONDS", help="Roll back unless it has been promoted by then."),
    ] = None,
    trust_pickles: TrustPickles = False,
    json: Json = False,
) -> None:
    """Release a version: register it on every node, raise its weight step by step, promote it or roll it back.

    Exits with 0 when it was promoted, 10 when it was rolled back, 11 when a person must decide, 13 when it failed
    before its first request. If this process is killed, 'tsctl rollout resume' goes on.
    """
    project, deployment = open_deployment()
    if is_on_cluster(deployment):
        opened = OpenedCluster(project, deployment)
        pull_target(project, deployment, model, version, Progress())
        _run(
            f"releasing {model} {version}",
            lambda note: started_on_cluster(opened, model, version, note, trust_pickles),
            json,
            timeout,
        )
    gateway = open_gateway_here()
    pull_target(gateway.project, gateway.deployment, model, version, Progress())
    target = gateway.deployment.models.get(model)
    if workers is None and target is not None and version in target.versions:
        workers = target.workers(version)
    _run(
        f"releasing {model} {version}",
        lambda note: started(gateway, model, version, workers, note, trust_pickles),
        json,
        timeout,
    )


@app.command()
def resume(model: Model, json: Json = False) -> None:
    """Resume a rollout that was paused, or whose process has ended."""
    _command(model, Command.RESUME, json)


@app.command()
def pause(model: Model, json: Json = False) -> None:
    """Take no further step; a canary that fails is still rolled back."""
    if not _is_sent(model, Command.PAUSE, json):
        waiting = unfinished(find_project(), model)
        raise AnalysisError(
            f"no process runs the rollout {waiting}, so it does not advance"
            if waiting
            else f"no rollout of {model} is in progress",
            f"See 'tsctl rollout status {model}'." if waiting else "See 'tsctl rollout history'.",
        )


@app.command()
def abort(model: Model, json: Json = False) -> None:
    """Roll back to stable and end the rollout as aborted; exit code 10."""
    _command(model, Command.ABORT, json)


@app.command()
def promote(model: Model, json: Json = False) -> None:
    """Skip the remaining steps: the canary gets all requests and becomes stable."""
    _command(model, Command.PROMOTE, json)


@app.command()
def rollback(model: Model, json: Json = False) -> None:
    """Roll back to the version that was stable before, also after a promotion; exit code 10."""
    if unfinished(find_project(), model) is not None:
        return _command(model, Command.ROLLBACK, json)
    if is_on_cluster(open_deployment()[1]):
        raise SpecError(
            f"no rollout of {model} is in progress, and a promotion on a cluster is not rolled back by itself",
            f"Set the weights: tsctl weights set {model} VERSION=100%",
        )
    gateway = open_gateway_here()
    _run(f"rolling {model} back", lambda note: reopened(gateway, model, note), json)


@app.command()
def repair(model: Model, json: Json = False) -> None:
    """Repair the journals of a model: keep every entry that can be read, and the damaged file beside it.

    A rollout that had not ended can only be rolled back afterwards, because its evidence has gaps. Weights stay as they
    are. Refused while a process runs a rollout of the model.
    """
    from tsctl.rollout.run.repair import repair as repair_journals

    repaired = repair_journals(find_project(), model)
    if json:
        return print_json([asdict(journal) | {"kept_as": str(journal.kept_as)} for journal in repaired])
    for journal in repaired:
        kept = find_project().relative(journal.kept_as)
        typer.echo(f"{journal.id}: {plural(journal.lost, 'line')} lost; the damaged file is kept as {kept}")
        typer.echo(f"  {_after_repair(model, journal.is_readable, journal.outcome)}")
    if not repaired:
        typer.echo(f"no journal of {model} is damaged")


def _after_repair(model: str, is_readable: bool, outcome: Outcome | None) -> str:
    if not is_readable:
        return (
            f"its start is lost, so nothing is left of it; see what it left with 'tsctl weights show {model}', and give"
            f" one version all requests: tsctl weights set {model} VERSION=100%"
        )
    if outcome is None:
        return f"it has not ended, and can only be rolled back: tsctl rollout abort {model}"
    return f"it has ended: {outcome}"


for view in (plan, status, watch, history, explain, report):
    app.command()(view)


def _command(model: str, command: Command, json: bool) -> None:
    """Send the command to the process that runs the rollout, or run the rollout here where none does."""
    if _is_sent(model, command, json):
        return
    project, deployment = open_deployment()
    if is_on_cluster(deployment):
        opened = OpenedCluster(project, deployment)
        _pull_again(opened, model)
        _run(f"{model}: {command}", lambda note: resumed_on_cluster(opened, model, note, command), json)
    gateway = open_gateway_here()
    _pull_again(gateway, model)
    _run(f"{model}: {command}", lambda note: resumed(gateway, model, note, command), json)


def _pull_again(gateway: OpenedSpec, model: str) -> None:
    """Pull the archive of the unfinished rollout where this machine lacks it; what fails is printed.

    A rollout can be rolled back without it.
    """
    if (rollout := unfinished(gateway.project, model)) is None:
        return
    progress, file = Progress(), start_of(Journal(find_journal(gateway.project, model, rollout)).entries).file
    for name, error in pull_files(gateway.project, gateway.deployment, [file], progress).items():
        progress.line(f"{name} is not pulled: {error.message}")


def _is_sent(model: str, command: Command, json: bool) -> bool:
    """Whether a process runs the rollout, and was sent the command; a mistake in deployment.yaml is no obstacle."""
    project = find_project()
    said: list[str] = []

    def say_once(text: str) -> None:
        if not said:
            typer.echo(text, err=True)
        said.append(text)

    if not is_running(project, model, say_once):
        return False
    send(project, model, command)
    if json:
        print_json({"model": model, "asked": command})
    else:
        typer.echo(f"sent {command} to the rollout of {model}; follow it with 'tsctl rollout watch {model}'")
    return True


def _run(
    title: str, opened: Callable[[Note], AbstractContextManager[Runner]], json: bool, timeout_s: float | None = None
) -> NoReturn:
    """Run the rollout to its end, or until a person must decide, and print what happens."""
    progress, narrator = Progress(), Narrator()

    def narrate(entry: Entry, state: State) -> None:
        is_short = isinstance(entry.event, EffectBegan) and entry.event.effect is not Effect.VERIFY
        for sentence in narrator.narrate(entry, state):
            if not is_short:  # its end follows in a moment
                progress.line(f"  {sentence.text}")

    with progress.step(title) as step, opened(step.note) as runner:
        runner.on_entry, runner.timeout_s = narrate, timeout_s
        state = runner.run()
        step.done(state.outcome or "undecided")
    report = runner.journal.path.with_suffix(SUFFIX)
    try:
        write_report(report, runner.journal.entries)
    except AnalysisError as error:  # the exit code says how the rollout ended
        progress.line(f"  {error.message}; 'tsctl rollout report {state.model}' writes it again")
    if json:
        print_json(as_json(state))
    else:
        _print_end(state, find_project().relative(report))
    raise typer.Exit(exit_code(state))


def _print_end(state: State, report: str) -> None:
    why = f": {state.why}" if state.why else ""
    ended = "failed before its first request" if state.is_rejected else state.outcome or "undecided"
    typer.echo(f"{state.model} {state.canary} {ended}{why}")
    for gap in gaps(state):
        typer.echo(f"note: {gap}")
    typer.echo(f"report: {report}")
    typer.echo(f"explain: tsctl rollout explain {state.model}")
    try:
        hints = deployment_hints(state, open_deployment()[1])
    except SpecError as error:  # the rollout has ended all the same, and its exit code says how
        hints = [f"deployment.yaml cannot be read: {error.message}"]
    for hint in hints:
        typer.echo(hint)
