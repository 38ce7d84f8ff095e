"""`tsctl rollout plan`: what a rollout would see, need and cost, before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json, Model, Version
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.rollout.forecast.forecast import FaultForecast, Forecast, RecentTraffic, StepForecast

STEP_COLUMNS = ("step", "requests", "on canary", "minutes", "sees errors from", "times stable's", "sees slow from")
FAULT_COLUMNS = ("canary with errors", "is", "at", "after min", "requests", "on canary", "failed")


def plan(
    model: Model,
    version: Version,
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="Of traffic that is looked at, up to now.")] = 10.0,
    json: Json = False,
) -> None:
    """What each step of a rollout can see with recent traffic, how long it takes, and who would meet a bad version.

    A fault that a step sees is found there in four of five rollouts; how long a bad version stays is a median. Nothing
    is changed.
    """
    import time

    from tsctl.archive.store import find_archive
    from tsctl.gateway.state import open_gateway
    from tsctl.rollout.forecast.forecast import forecast_rollout
    from tsctl.rollout.forecast.recent_traffic import read_recent, recent_traffic

    project, deployment = open_deployment()
    find_archive(project, model, version)  # what cannot be released is not planned
    policy = deployment.policy(model)
    now = time.time()
    since = now - 60 * minutes
    entries = read_recent(open_gateway(project, deployment).files.access_log, model, since)
    target = deployment.models.get(model)
    is_by_user = target is not None and target.route.sticky is not None
    forecast = forecast_rollout(
        policy, recent_traffic(entries, since, now, policy.count_4xx, policy.slow_quantile), is_by_user
    )
    if json:
        print_json({"model": model, "version": version, "policy": policy.model_dump(mode="json"), **forecast.as_json()})
        return
    typer.echo(f"{model}: {_traffic_text(forecast.traffic)}")
    typer.echo()
    print_table(STEP_COLUMNS, [_step_row(step) for step in forecast.steps])
    if forecast.faults:
        typer.echo()
        print_table(FAULT_COLUMNS, [_fault_row(fault) for fault in forecast.faults])
    typer.echo()
    for sentence in (_total_text(forecast, model, version), *forecast.warnings):
        typer.echo(sentence)


def _traffic_text(traffic: RecentTraffic) -> str:
    span = f"{traffic.since_s:.0f} s" if traffic.since_s < 120 else f"{traffic.since_s / 60:.0f} min"
    asked = f"{traffic.requests_per_s:,.1f} requests/s in the last {span}"
    if not traffic.requests:
        return asked
    return f"{asked}, {traffic.error_rate:.2%} errors and {traffic.slow_share:.2%} slow answers of stable"


def _step_row(step: StepForecast) -> tuple[object, ...]:
    from tsctl.config.weights import percent

    ratio = None if step.error_ratio is None else f"{step.error_ratio:.1f}"
    return (
        percent(step.weight),
        _whole(step.requests),
        _whole(step.on_canary),
        _minutes(step.seconds),
        _share(step.error_rate),
        ratio,
        _share(step.slow_share),
    )


def _fault_row(fault: FaultForecast) -> tuple[object, ...]:
    from tsctl.config.weights import percent

    counts = (_whole(count) for count in (fault.requests, fault.on_canary, fault.failed))
    return (_share(fault.error_rate), fault.fate, percent(fault.weight), _minutes(fault.seconds), *counts)


def _total_text(forecast: Forecast, model: str, version: str) -> str:
    if forecast.seconds is None:
        return f"{model} {version} would not be promoted, even if it is as good as stable."
    return f"{model} {version} would be promoted after {_minutes(forecast.seconds)} min, if it is as good as stable."


def _whole(count: int | None) -> str | None:
    return None if count is None else f"{count:,}"


def _minutes(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds / 60:,.1f}"


def _share(share: float | None) -> str | None:
    return None if share is None else f"{share:.2%}"
