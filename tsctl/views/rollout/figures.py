"""Chooses the plots of a rollout's report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log10

from tsctl.config.weights import percent
from tsctl.gateway.traffic import CANARY, STABLE
from tsctl.rollout.decide.judge import AVERAGE
from tsctl.rollout.decide.readings import Rate, rate_of
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.views.plot import Line, Plot, percents, powers, times
from tsctl.views.rollout.series import Point, Series
from tsctl.views.rollout.wording import LN_10, e_text, interval_text, share_text, signal_name

#: Power of ten of the lowest e-value that is drawn; how far below 1 an e-value lies decides nothing.
LEAST_POWER = -2.0


def plots(state: State, series: Series) -> Iterator[Plot]:
    """Yield every plot, in reading order; none before the first tick."""
    points = series.points()
    if not points:
        return
    moments = [(at, "failed" if is_fail else "decided") for at, is_fail in series.marks]
    for plot in (
        _weight(series),
        _evidence(points, series.end),
        _rates("Errors", state, points, series.end),
        _rates("Slow answers", state, points, series.end),
        _requests(state, points, series.end),
    ):
        yield replace(plot, spans=series.waits, moments=moments)


def _weight(series: Series) -> Plot:
    weight = series.weights[-1][1]
    points = [(at, weight / 100) for at, weight in (*series.weights, (series.end, weight))]
    note = (
        "Share of the requests, over the time since the rollout began. Vertical lines are verdicts and commands: red"
        " for a fail, dotted for all others."
    )
    lines = [Line(CANARY, CANARY, points, percent(weight), is_step=True)]
    if series.waits:
        lines.append(Line("waiting, because something was unavailable", "waiting", ()))
    most = max(weight for _, weight in points) or 100.0
    return Plot("Weight of the canary", note, times(series.end), percents(most), lines)


def _evidence(points: Sequence[Point], end: float) -> Plot:
    last = points[-1]
    values = [value for point in points for value in point.powers.values()]
    y = powers(max(LEAST_POWER, min(values)), max(last.threshold + 0.5, *values))
    note = (
        "Logarithmic. The canary fails when the average reaches the threshold. Values below"
        f" {10**y.low:g} are drawn at the edge."
    )
    signals = dict.fromkeys(name for point in points for name in point.powers if name != AVERAGE)
    lines = []
    for name in (*signals, AVERAGE):
        over_time = [(point.at, point.powers.get(name)) for point in points]
        lines.append(Line(signal_name(name), name, over_time, _e(last.powers.get(name))))
    thresholds = [(point.at, point.threshold) for point in points]
    lines.append(_threshold("threshold, 1 / alpha", thresholds, end, _e(last.threshold)))
    return Plot("E-values", note, times(end), y, lines)


def _e(power: float | None) -> str:
    return "" if power is None else e_text(power * LN_10)


def _threshold(name: str, points: Sequence[tuple[float, float]], end: float, last: str) -> Line:
    """A line from the begin to the end of the plot."""
    return Line(name, "threshold", [(0.0, points[0][1]), *points, (end, points[-1][1])], last, is_step=True)


def _rates(title: str, state: State, points: Sequence[Point], end: float) -> Plot:
    """Draw the shares of errors, with the error rate cap, or of slow answers; both with intervals."""
    is_errors = title == "Errors"

    def rate(counts: OutcomeCounts, alpha: float) -> Rate:
        return rate_of(counts.errors if is_errors else counts.slow, counts.requests, alpha)

    stable = [rate(point.stable, point.policy.alpha) for point in points]
    canary = [rate(point.canary, point.policy.alpha) for point in points]
    lines = []
    for version, track, rates in ((state.stable, STABLE, stable), (state.canary, CANARY, canary)):
        timed = [(point.at, rate) for point, rate in zip(points, rates, strict=True)]
        last = f"{share_text(rates[-1].estimate)}, {interval_text(rates[-1])}" if rates[-1].requests else "no requests"
        estimates = [(at, None if rate.estimate is None else rate.estimate * 100) for at, rate in timed]
        band = [(at, rate.low * 100, rate.high * 100) for at, rate in timed]
        lines.append(Line(f"{track} {version}", track, estimates, last, band=band))
    caps = [(point.at, point.policy.max_error_rate * 100) for point in points]
    if is_errors:
        lines.append(_threshold("error rate cap", caps, end, f"{caps[-1][1]:g}%"))
    event = "errors" if is_errors else "slow"
    note = f"Share of requests that are {event}, since the evidence began. Areas are intervals that hold at all times."
    later = [*stable[len(points) // 2 :], *canary[len(points) // 2 :]]
    y = percents(_top(later, caps[-1][1] if is_errors else 0.0))
    return Plot(title, note, times(end), y, lines)


def _top(rates: Sequence[Rate], cap: float) -> float:
    """Percent that fits nine of ten intervals and the cap."""
    highs = sorted(100 * rate.high for rate in rates if rate.requests)
    return min(100.0, max(cap * 1.2, *(highs[: max(1, len(highs) * 9 // 10)] or [1.0])))


def _requests(state: State, points: Sequence[Point], end: float) -> Plot:
    last = points[-1].requests
    lines = []
    for side, (version, track) in enumerate(((state.stable, STABLE), (state.canary, CANARY))):
        counts = [(point.at, point.requests[side]) for point in points]
        drawn = [(at, log10(count) if count else None) for at, count in counts]
        lines.append(Line(f"{track} {version}", track, drawn, f"{last[side]:,}"))
    note = "Logarithmic. Answered since the rollout began."
    return Plot("Requests", note, times(end), powers(0, log10(max(*last, 10))), lines)
