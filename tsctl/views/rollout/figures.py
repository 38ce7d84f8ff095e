"""Which plots the report of a rollout has, and what each of them says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log10

from tsctl.config.weights import percent
from tsctl.rollout.decide.judge import Rate
from tsctl.rollout.decide.state import State
from tsctl.views.rollout.plot import Axis, Band, Line, Plot, figure, linear, powers, times
from tsctl.views.rollout.series import Point, Series, Side
from tsctl.views.rollout.wording import LN_10, e_text, interval_text, rate_text

#: The lowest e-value that is drawn: whether a canary is ten or a thousand times surely good matters to nobody.
LEAST_POWER = -2.0


def figures(state: State, found: Series) -> Iterator[str]:
    """Every plot as HTML, in the order in which they are read; none where nothing was watched yet."""
    if not found.points:
        return
    x = times(found.end - found.begin)
    for title, note, y, lines, bands in (
        _weight(found),
        _evidence(found),
        _rates("Errors", state, found),
        _rates("Slow answers", state, found),
        _requests(state, found),
    ):
        spans = [(span.begin - found.begin, span.end - found.begin) for span in found.waits]
        moments = [(mark.at - found.begin, "failed" if mark.text == "fail" else "decided") for mark in found.marks]
        yield figure(Plot(title, note, x, y, lines, bands, spans, moments))


_Parts = tuple[str, str, Axis, list[Line], list[Band]]


def _weight(found: Series) -> _Parts:
    points = [(at - found.begin, weight / 100) for at, weight in found.weights]
    points.append((found.end - found.begin, points[-1][1]))
    note = (
        "Share of the requests, over the time since the rollout began. Vertical lines are verdicts and what people did:"
        " red a fail, dotted all others."
    )
    lines = [Line("canary", "canary", points, percent(found.weights[-1][1]), is_step=True)]
    if found.waits:
        lines.append(Line("it held, because something was away", "held", ()))
    most = max(weight for _, weight in found.weights) / 100 or 100.0
    return "Weight of the canary", note, linear(most, "%"), lines, []


def _evidence(found: Series) -> _Parts:
    last = found.points[-1]
    everything = [value for point in found.points for value in (*point.logs.values(), point.average)]
    y = powers(max(LEAST_POWER, min(everything)), max(last.threshold + 0.5, *everything))
    note = (
        "Logarithmic. The canary fails when the average reaches the threshold; what lies below"
        f" {10**y.low:g} is drawn at the edge."
    )
    signals = list(dict.fromkeys(name for point in found.points for name in point.logs))
    lines = [
        Line(name, name, [(p.at - found.begin, p.logs.get(name)) for p in found.points], _e(last.logs.get(name)))
        for name in signals
    ]
    average = [(point.at - found.begin, point.average) for point in found.points]
    limit = [(0.0, found.points[0].threshold), *((p.at - found.begin, p.threshold) for p in found.points)]
    limit.append((found.end - found.begin, last.threshold))
    lines.append(Line("average", "average", average, _e(last.average)))
    lines.append(Line("threshold, 1 / alpha", "threshold", limit, _e(last.threshold), is_step=True))
    return "E-values", note, y, lines, []


def _e(power: float | None) -> str:
    return "" if power is None else e_text(power * LN_10)


def _rates(title: str, state: State, found: Series) -> _Parts:
    is_errors = title == "Errors"
    sides = ((state.stable, "stable"), (state.canary, "canary"))
    lines, bands = [], []
    for version, track in sides:
        rates = [(point.at - found.begin, _rate(getattr(point, track), is_errors)) for point in found.points]
        last = rates[-1][1]
        told = f"{rate_text(last)}, {interval_text(last)}" if last.requests else "no requests"
        estimates = [(at, None if rate.estimate is None else rate.estimate * 100) for at, rate in rates]
        lines.append(Line(f"{track} {version}", track, estimates, told))
        bands.append(Band(f"{track}-band", [(at, rate.low * 100, rate.high * 100) for at, rate in rates]))
    if is_errors:
        limit = [(point.at - found.begin, point.max_error_rate * 100) for point in found.points]
        limit = [(0.0, limit[0][1]), *limit, (found.end - found.begin, limit[-1][1])]
        lines.append(Line("the policy's maximum", "threshold", limit, f"{limit[-1][1]:g}%", is_step=True))
    what = "that are errors" if is_errors else "that are slow"
    note = f"Share of requests {what}, since the evidence began; the areas are intervals that hold at all times."
    return title, note, linear(_top(found.points, is_errors), "%"), lines, bands


def _rate(side: Side, is_errors: bool) -> Rate:
    return side.errors if is_errors else side.slow


def _top(points: Sequence[Point], is_errors: bool) -> float:
    """So high that the later half fits with its intervals; those of the first requests reach up to 100 %."""
    later = points[len(points) // 2 :]
    highs = [_rate(side, is_errors).high for point in later for side in (point.stable, point.canary) if side.requests]
    allowed = points[-1].max_error_rate * 1.2 if is_errors else 0.0
    return min(100.0, 100 * max(allowed, *(sorted(highs)[: max(1, len(highs) * 9 // 10)] or [0.01])))


def _requests(state: State, found: Series) -> _Parts:
    lines = [
        Line(
            f"{track} {version}",
            track,
            [(point.at - found.begin, _power(getattr(point, track).requests)) for point in found.points],
            f"{getattr(found.points[-1], track).requests:,}",
        )
        for version, track in ((state.stable, "stable"), (state.canary, "canary"))
    ]
    most = max(found.points[-1].stable.requests, found.points[-1].canary.requests, 10)
    return "Requests", "Logarithmic. Answered since the rollout began.", powers(0, log10(most)), lines, []


def _power(count: int) -> float | None:
    return log10(count) if count else None
