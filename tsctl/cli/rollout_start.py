"""`tsctl rollout start`, and how a rollout that this process runs is printed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, NoReturn

import typer

from tsctl.cli.context import open_deployment, open_gateway_here
from tsctl.cli.options import Json, Model, TrustPickles, Version
from tsctl.cli.output import print_json
from tsctl.cli.rollout_views import exit_code
from tsctl.config.project import find_project
from tsctl.deploy.pulls import pull_target
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.backend import is_on_cluster
from tsctl.host.progress import Note, Progress
from tsctl.rollout.cluster.begin import OpenedCluster, started_on_cluster
from tsctl.rollout.decide.events import Effect, EffectBegan, Entry
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.begin import started
from tsctl.rollout.run.runner import Runner
from tsctl.views.rollout.follow import as_json
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.narrative import Narrator
from tsctl.views.rollout.outlook import deployment_hints
from tsctl.views.rollout.report import SUFFIX, write_report


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
        run_shown(
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
    run_shown(
        f"releasing {model} {version}",
        lambda note: started(gateway, model, version, workers, note, trust_pickles),
        json,
        timeout,
    )


def run_shown(
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
