"""Tables and sentences of a forecast. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tsctl.config.weights import percent
from tsctl.rollout.forecast.forecast import (
    FaultForecast,
    Forecast,
    LabelForecast,
    RecentTraffic,
    StepForecast,
    TextForecast,
)
from tsctl.rollout.forecast.shadow import StageForecast, StageRow
from tsctl.views.rollout.wording import share_text, signal_name
from tsctl.views.table import Table


def traffic_text(traffic: RecentTraffic) -> str:
    """`50.0 requests/s in the last 10 min, 1.00% errors and 5.00% slow answers of stable`."""
    period = f"{traffic.since_s:.0f} s" if traffic.since_s < 120 else f"{traffic.since_s / 60:.0f} min"
    text = f"{traffic.requests_per_s:,.1f} requests/s in the last {period}"
    if not traffic.requests:
        return text
    return f"{text}, {traffic.error_rate:.2%} errors and {traffic.slow_share:.2%} slow answers of stable"


def steps_table(steps: Sequence[StepForecast]) -> Table:
    """Requests and length of each step, and the smallest faults that it can see."""
    columns = (
        ">step",
        ">requests",
        ">on canary",
        ">minutes",
        ">detects errors from",
        ">x stable",
        ">detects slow from",
    )
    rows = [
        (
            percent(step.weight),
            _whole(step.requests),
            _whole(step.on_canary),
            _minutes(step.seconds),
            share_text(step.error_rate),
            "-" if step.error_ratio is None else f"{step.error_ratio:.1f}",
            share_text(step.slow_share),
        )
        for step in steps
    ]
    return Table(columns, rows)


def faults_table(faults: Sequence[FaultForecast]) -> Table:
    """How the rollout of a canary with each error rate ends, and the requests until then."""
    columns = (">canary error rate", "outcome", ">at step", ">minutes", ">requests", ">on canary", ">failed")
    rows = [
        (
            share_text(fault.error_rate),
            fault.fate,
            percent(fault.weight),
            _minutes(fault.seconds),
            *(_whole(count) for count in (fault.requests, fault.on_canary, fault.failed)),
        )
        for fault in faults
    ]
    return Table(columns, rows)


def stage_table(rows: Sequence[StageRow]) -> Table:
    """Pairs and time of the shadow stage, for canaries at several noise floors of stable."""
    columns = (">noise floor", ">canary differs", "outcome", ">pairs, median", ">pairs, four of five", ">minutes")
    cells = [
        (
            f"{row.floor:.2%}",
            f"{row.rate:.2%}",
            "passes" if row.passes else "found",
            _whole(row.median),
            _whole(row.surely),
            _minutes(row.seconds),
        )
        for row in rows
    ]
    return Table(columns, cells)


def stage_text(stage: StageForecast) -> str:
    """How fast the shadow stage gets its pairs."""
    return f"Shadow stage, before the first step: {stage.pairs_per_s:,.2f} pairs/s with a measured noise floor."


def labels_table(labels: Sequence[LabelForecast]) -> Table:
    """Labelled items that a canary needs to be seen by its labels."""
    rows = [(share_text(each.rate), share_text(each.base), _whole(each.items)) for each in labels]
    return Table((">canary's labels wrong", ">stable's", ">labelled items of each"), rows)


def texts_table(texts: Sequence[TextForecast]) -> Table:
    """Answers of a language model's canary until a fault is seen, at the first step."""
    rows = [
        (
            signal_name(each.signal),
            share_text(each.rate),
            share_text(each.base),
            percent(each.weight),
            _whole(each.on_canary),
            _minutes(each.seconds),
        )
        for each in texts
    ]
    return Table(("fault", ">of canary's answers", ">of stable's", ">at step", ">canary's answers", ">minutes"), rows)


def total_text(forecast: Forecast, model: str, version: str) -> str:
    """When a canary that is like stable would be promoted."""
    if forecast.seconds is None:
        return f"{model} {version} would not be promoted, even if it is as good as stable."
    return f"{model} {version} would be promoted after {_minutes(forecast.seconds)} min, if it is as good as stable."


def _whole(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:,.1f}"
