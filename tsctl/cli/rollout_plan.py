"""`tsctl rollout plan`: forecasts what a rollout would see, need and cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json, Model, Version
from tsctl.cli.output import print_json


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
    Nothing is changed.
    """
    import time

    from tsctl.archive.store import find_archive
    from tsctl.gateway.state import open_gateway
    from tsctl.rollout.forecast.forecast import forecast_rollout
    from tsctl.rollout.forecast.recent_traffic import read_recent, recent_traffic
    from tsctl.views.rollout.forecast import faults_table, steps_table, total_text, traffic_text
    from tsctl.views.terminal import print_table

    project, deployment = open_deployment()
    find_archive(project, model, version)  # a version without an archive cannot be released
    policy = deployment.policy(model)
    now = time.time()
    since = now - 60 * minutes
    entries = read_recent(open_gateway(project, deployment).files.access_log, model, since)
    traffic = recent_traffic(entries, since, now, policy.count_4xx, policy.slow_quantile)
    target = deployment.models.get(model)
    forecast = forecast_rollout(policy, traffic, target is not None and target.route.sticky is not None)
    if json:
        print_json({"model": model, "version": version, "policy": policy.model_dump(mode="json"), **asdict(forecast)})
        return
    typer.echo(f"{model}: {traffic_text(traffic)}\n")
    print_table(steps_table(forecast.steps))
    if forecast.faults:
        typer.echo()
        print_table(faults_table(forecast.faults))
    typer.echo()
    for sentence in (total_text(forecast, model, version), *forecast.warnings):
        typer.echo(sentence)
