"""`tsctl rollout status|watch|history|explain|report|plan`: shows rollouts; nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.archive.inspect import facts_of
from tsctl.archive.store import StoredArchive, find_archive
from tsctl.cli.context import open_deployment
from tsctl.cli.options import Json, Model, Version
from tsctl.cli.output import print_done, print_json
from tsctl.config.archive import Records
from tsctl.config.deployment import ModelTarget
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project, find_project
from tsctl.control.place import PlaceUnreachable
from tsctl.deploy.pulls import pull_target
from tsctl.errors import AnalysisError
from tsctl.gateway.backend import require_own_traffic
from tsctl.gateway.state import open_gateway, traffic_in_force
from tsctl.gateway.traffic import Traffic
from tsctl.host.progress import Progress
from tsctl.records.labels import wrong_share
from tsctl.records.places import labels_folder, places_of, shared_address
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.state import State
from tsctl.rollout.forecast.forecast import RecentTraffic, forecast_rollout
from tsctl.rollout.forecast.recent_traffic import read_recent, recent_traffic
from tsctl.rollout.forecast.shadow import StageForecast, forecast_stage
from tsctl.rollout.run.journal_files import find_journal, journals, models_with_journals, pull, unfinished
from tsctl.rollout.run.journal_lines import read
from tsctl.rollout.run.preconditions import generates_text, require_no_weights, require_not_stable
from tsctl.views.rollout.follow import as_json, policy_json, snapshot
from tsctl.views.rollout.forecast import (
    faults_table,
    labels_table,
    stage_table,
    stage_text,
    steps_table,
    texts_table,
    total_text,
    traffic_text,
)
from tsctl.views.rollout.history import summary
from tsctl.views.rollout.narrative import story
from tsctl.views.rollout.report import SUFFIX, write_report
from tsctl.views.rollout.status import render_status
from tsctl.views.rollout.tables import clients_tables, evidence_tables, history_table
from tsctl.views.rollout.watch import watch_lines, watch_picture
from tsctl.views.rollout.wording import when
from tsctl.views.terminal import new_console, print_table, print_wrapped

AnyModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="All models if left out.")]
Id = Annotated[
    str | None, typer.Argument(metavar="ID", help="As 'tsctl rollout history' shows it; the last one if left out.")
]

#: Exit codes of a rollout that was not promoted; errors have their own.
ROLLED_BACK, UNDECIDED, REJECTED = 10, 11, 13


def exit_code(state: State) -> int:
    """The exit code of a command that followed a rollout to this state."""
    match state.outcome:
        case None:
            return UNDECIDED
        case Outcome.PROMOTED:
            return 0
        case _:
            return REJECTED if state.is_rejected else ROLLED_BACK


def status(model: AnyModel = None, json: Json = False) -> None:
    """Show where a rollout stands.

    Shows weight, requests, rates with intervals, e-values, and what is still needed. With MODEL, its last rollout, even
    if it has ended; without, all rollouts in progress.
    """
    project = find_project()
    rollouts, unreadable = [], []
    names = models_with_journals(project) if model is None else [model]
    if not names:
        raise AnalysisError("there is no rollout", "Begin one: tsctl rollout start MODEL VERSION")
    for name in names:
        try:
            if model is not None or unfinished(project, name) is not None:
                rollouts.append(snapshot(read(find_journal(project, name))))
        except AnalysisError as error:
            unreadable.append(error)
    shown = [now for now in rollouts if now is not None]
    if json:
        states = [as_json(now.state) for now in shown]
        if model is None or not unreadable:
            print_json(states[0] if model is not None else states)
    for number, now in enumerate(() if json else shown):
        typer.echo("\n" if number else "", nl=False)
        new_console().print(render_status(now, time.time()))
    if not (json or shown or unreadable):
        typer.echo("no rollout is in progress; 'tsctl rollout history' shows those that have ended")
    _raise_all(unreadable)


def watch(model: Model, json: Json = False) -> None:
    """Watch a rollout until it ends.

    Ctrl-C stops watching and changes nothing. On a terminal the status is refreshed; anywhere else, and with --json,
    each event is a line. The exit code is 0 if the canary was promoted, 13 if it failed before its first request, and
    10 if it was rolled back or aborted.
    """
    project, console = find_project(), new_console()
    path = find_journal(project, model)

    def refresh() -> None:
        with suppress(PlaceUnreachable):  # it is asked again
            pull(project, model)

    is_picture = console.is_terminal and not json
    state = watch_picture(path, console, refresh) if is_picture else watch_lines(path, json, refresh)
    if code := exit_code(state):
        raise typer.Exit(code)


def history(model: AnyModel = None, json: Json = False) -> None:
    """List every rollout, the oldest first.

    Shows how it ended, what failed it, and how long it took.
    """
    rollouts, unreadable = [], []
    for path in journals(find_project(), model):
        try:
            entries = read(path)
        except AnalysisError as error:
            unreadable.append(error)
            continue
        if entries:  # else its first line was cut off by a kill, and nothing was begun
            rollouts.append(summary(entries))
    if json:
        print_json([asdict(rollout) for rollout in rollouts])
    elif rollouts:
        print_table(history_table(rollouts))
    elif not unreadable:
        typer.echo(f"no rollout{f' of {model}' if model else ''} yet; to begin one: tsctl rollout start MODEL VERSION")
    _raise_all(unreadable)


def _raise_all(errors: Sequence[AnalysisError]) -> None:
    """Raise one error with the messages and hints of all; none where there are none."""
    if errors:
        hints = dict.fromkeys(error.hint for error in errors)
        raise AnalysisError("\n".join(error.message for error in errors), "\n       ".join(hints))


def explain(model: Model, id: Id = None, json: Json = False) -> None:
    """Explain a rollout in sentences.

    Shows every decision with its reason, numbers and time, and what to do next.
    """
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
    for table in clients_tables(state):
        print_table(table)
        typer.echo()
    for sentence in (told.outcome, *told.gaps, *told.advice):
        print_wrapped(sentence)


def report(
    model: Model,
    id: Id = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the file; beside the journal, in .tsctl/rollouts, if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a rollout as one HTML file with plots.

    The file needs no network and no other file.
    """
    project = find_project()
    path = find_journal(project, model, id)
    written = out or path.with_suffix(SUFFIX)
    write_report(written, read(path))
    print_done({"path": str(written)}, [project.relative(written)], json)


def plan(
    model: Model,
    version: Version,
    minutes: Annotated[
        float, typer.Option(min=1, max=1440, help="Length of the traffic that is read, up to now.")
    ] = 10.0,
    json: Json = False,
) -> None:
    """Forecast a rollout from recent traffic.

    Shows how long each step takes, which faults it can detect, and what a bad version costs. A fault counts as
    detectable if a step finds it in four of five rollouts; the time until a bad version is rolled back is a median.
    Nothing is changed. What 'tsctl rollout start' refuses in every state of the gateway is refused.
    """
    project, deployment = open_deployment()
    require_own_traffic(
        deployment, "'tsctl rollout plan'", "'tsctl rollout start' says at each step how many requests it needs."
    )
    require_no_weights(deployment, model)
    # a version without an archive cannot be released
    pull_target(project, deployment, model, version, Progress())
    archive = find_archive(project, model, deployment.models[model].archive(version))
    gateway = open_gateway(project, deployment)
    route = traffic_in_force(gateway).get(model)
    if route is not None:
        require_not_stable(route, version)
    is_text = generates_text(archive)
    policy = deployment.policy(model).judging(is_text)
    now = time.time()
    since = now - 60 * minutes
    entries = read_recent(gateway.files.access_log, model, since)
    traffic = recent_traffic(entries, since, now, policy.count_4xx, policy.slow_quantile)
    target = deployment.models.get(model)
    is_by_user = target is not None and target.route.sticky is not None
    stable = route.stable if route is not None else None
    wrong = None
    if stable is not None and "labels" in policy.signals:
        places = places_of(gateway.nodes(), shared_address(project, deployment))
        wrong = wrong_share(labels_folder(project), places, model, stable)
    forecast = forecast_rollout(policy, traffic, is_by_user, wrong, is_text)
    stage = _stage(project, policy, traffic, archive, deployment.models[model], route)
    if json:
        named = {"model": model, "version": version, "policy": policy_json(policy)}
        print_json({**named, **asdict(forecast), "shadow": None if stage is None else asdict(stage)})
        return
    typer.echo(f"{model}: {traffic_text(traffic)}\n")
    if stage is not None:
        typer.echo(stage_text(stage))
        print_table(stage_table(stage.rows))
        typer.echo()
    print_table(steps_table(forecast.steps))
    if forecast.faults:
        typer.echo()
        print_table(faults_table(forecast.faults))
    if forecast.labels:
        typer.echo()
        print_table(labels_table(forecast.labels))
    if forecast.texts:
        typer.echo()
        print_table(texts_table(forecast.texts))
    typer.echo()
    for sentence in (total_text(forecast, model, version), *forecast.warnings, *(stage.warnings if stage else ())):
        typer.echo(sentence)


def _stage(
    project: Project,
    policy: RolloutPolicy,
    traffic: RecentTraffic,
    canary: StoredArchive,
    target: ModelTarget,
    route: Traffic | None,
) -> StageForecast | None:
    """The forecast of the policy's shadow stage; None where it has none."""
    if policy.shadow is None:
        return None
    stable = target.archive(route.stable if route is not None else target.default)
    archives = (find_archive(project, canary.model, stable), canary)
    of_stable, of_canary = (_records(archive) for archive in archives)
    return forecast_stage(policy.shadow, policy.alpha, traffic.requests_per_s, of_stable, of_canary)


def _records(archive: StoredArchive) -> Records | None:
    return facts_of(archive.path).serving.records
