"""Puts a comparison into tables. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from tsctl.compare.result import LOAD_SHARES, Comparison, Measured, Turn
from tsctl.compare.statistics import Spread
from tsctl.views.table import Table

NONE = "-"
_MIB = 1 << 20


def speed_table(comparison: Comparison) -> Table:
    """Throughput and latency of each engine: medians of the rounds, and the spread of the throughput.

    `closed` are milliseconds of the closed loop, in which clients wait for a slow server and so send it less.
    """
    columns = (
        "engine", ">requests/s", ">spread", ">of bare", ">conns", ">p50 closed", ">p99 closed",
        *(f">p99 at {share:.0%}" for share in LOAD_SHARES), ">lone ms", ">client",
    )  # fmt: skip
    return Table(columns, [_speed_row(engine, comparison) for engine in comparison.engines if engine.turns])


def cost_table(comparison: Comparison) -> Table:
    """What each engine needs: time to start, processor time and memory."""
    columns = (
        "engine", ">ready s", ">first request ms", ">first answer s", ">CPU s per 1,000", ">memory MiB", "memory is",
    )  # fmt: skip
    return Table(columns, [_cost_row(engine) for engine in comparison.engines if engine.turns])


def overload_table(comparison: Comparison) -> Table | None:
    """What each engine does with twice the requests that it can answer; None where that was not measured."""
    engines = [engine for engine in comparison.engines if any(turn.overload for turn in engine.turns)]
    columns = (
        "engine", ">offered/s", ">answered/s", ">of capacity", ">refused", ">badly", ">refused in ms (p99)",
        ">at most ms", ">recovery s",
    )  # fmt: skip
    return Table(columns, [_overload_row(engine) for engine in engines]) if engines else None


def missing_lines(comparison: Comparison) -> list[str]:
    """A line for each engine that was not measured to the end."""
    return [f"{engine.name}: {engine.why_not}" for engine in comparison.engines if engine.why_not]


def bare_line(comparison: Comparison) -> str:
    """The speed of the model without a server."""
    bare = comparison.bare
    if bare.speed is None or bare.lone is None:
        return f"The model without a server was not measured: {bare.why_not}."
    return (
        f"The model without a server (full batches of {comparison.setting.batch}, {comparison.setting.workers}"
        f" processes): {number(bare.speed.median)} requests/s; a batch of one takes {bare.lone.median:.2f} ms."
    )


def setting_line(comparison: Comparison) -> str:
    """What was sent, and for how long."""
    setting = comparison.setting
    return (
        f"{setting.model} {setting.version} ({setting.digest}), {setting.source},"
        f" {setting.request_bytes:,} bytes on average, {setting.rounds} rounds of {setting.seconds:g} s for each load."
    )


def number(value: float | None) -> str:
    """A number with as many digits as a person reads."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "failed"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _speed_row(engine: Measured, comparison: Comparison) -> list[str]:
    speed, bare = engine.over_rounds(lambda turn: turn.capacity_s), comparison.bare.speed
    share = f"{speed.median / bare.median:.0%}" if speed and bare and bare.median else NONE
    return [
        engine.title,
        number(speed.median if speed else None),
        _range(speed),
        share,
        str(engine.turns[0].saturated.connections),
        _median(engine, lambda turn: turn.saturated.p50_ms),
        _median(engine, lambda turn: turn.saturated.p99_ms),
        *(_median(engine, _p99_at(load_share)) for load_share in LOAD_SHARES),
        _median(engine, lambda turn: turn.lone.p50_ms),
        f"{max(turn.saturated.client_share for turn in engine.turns):.0%}",
    ]


def _cost_row(engine: Measured) -> list[str]:
    proportional = all(turn.is_proportional for turn in engine.turns)
    return [
        engine.title,
        _median(engine, lambda turn: turn.ready_s),
        _median(engine, lambda turn: turn.first_ms),
        _median(engine, lambda turn: turn.first_answer_s),
        _median(engine, lambda turn: turn.cpu_s_per_1000),
        _median(engine, lambda turn: turn.memory_bytes / _MIB),
        "proportional" if proportional else "resident",
    ]


def _overload_row(engine: Measured) -> list[str]:
    loads = [turn.overload for turn in engine.turns if turn.overload is not None]
    return [
        engine.title,
        number(median(load.offered_s for load in loads)),
        number(median(load.goodput_s for load in loads)),
        f"{median(load.goodput_share for load in loads):.0%}",
        f"{sum(load.refused for load in loads):,}",
        f"{sum(load.bad_refusals for load in loads):,}",
        number(median(load.refusal_p99_ms for load in loads)),
        number(max(load.refusal_most_ms for load in loads)),
        number(median(load.recovery_s for load in loads)),
    ]


def _p99_at(share: float) -> Callable[[Turn], float | None]:
    return lambda turn: turn.open_loops[share].p99_ms


def _median(engine: Measured, figure: Callable[[Turn], float | None]) -> str:
    found = engine.over_rounds(figure)
    return number(found.median if found else None)


def _range(speed: Spread | None) -> str:
    return f"{number(speed.least)}-{number(speed.most)}" if speed else NONE
