"""Chooses the plots of a shadow comparison. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import log, log10

from tsctl.shadow.report import ShadowReport
from tsctl.views.plot import Axis, Line, Plot, amounts, percents, powers
from tsctl.views.rollout.wording import LN_10, e_text

#: Powers of ten of the e-values that are drawn.
LEAST_POWER, MOST_POWER = -2.0, 8.0


def plots(report: ShadowReport) -> Iterator[Plot]:
    """Yield every plot; none without pairs."""
    if not report.points:
        return
    x = amounts(report.points[-1].pairs)
    yield _rates(report, x)
    yield _evidence(report, x)
    if report.latencies:
        yield _latency(report)


def _rates(report: ShadowReport, x: Axis) -> Plot:
    points, last = report.points, report.points[-1]
    shadow = [(point.pairs, 100 * point.rate) for point in points]
    band = [(point.pairs, 100 * point.low, 100 * point.high) for point in points]
    floor = [(point.pairs, None if point.floor is None else 100 * point.floor) for point in points]
    limit = [(point.pairs, 100 * ((point.floor or 0.0) + report.limit)) for point in points]
    lines = [
        Line("shadow differs from stable", "canary", shadow, f"{last.rate:.2%}", band=band),
        Line("stable differs from itself", "stable", floor, "-" if last.floor is None else f"{last.floor:.2%}"),
        Line("limit above it", "threshold", limit, f"{report.limit:.2%}"),
    ]
    high = max(100 * last.high, *(y for _, y in limit), *(y for _, y in shadow[len(shadow) // 2 :]))
    note = "Share of the answers that differ, over pairs. The interval holds at all times at once."
    return Plot("Disagreement", note, x, percents(high * 1.1), lines)


def _evidence(report: ShadowReport, x: Axis) -> Plot:
    points, threshold = report.points, -log10(report.alpha)
    above = [(point.pairs, _power(point.above)) for point in points]
    below = [(point.pairs, _power(point.below)) for point in points]
    ends = [(x.low, threshold), (x.high, threshold)]
    lines = [
        Line("too much", "errors", above, e_text(points[-1].above)),
        Line("low enough", "limit", below, e_text(points[-1].below)),
        Line("1 / alpha", "threshold", ends, f"{1 / report.alpha:,.4g}"),
    ]
    values = [value for _, value in (*above, *below)]
    note = "E-values, logarithmic, over pairs. The first one that reaches 1 / alpha decides."
    y = powers(max(LEAST_POWER, min(values)), min(MOST_POWER, max(threshold + 0.5, *values)))
    return Plot("Evidence", note, x, y, lines)


def _latency(report: ShadowReport) -> Plot:
    stable = [(float(each.percentile), each.stable_ms) for each in report.latencies]
    shadow = [(float(each.percentile), each.shadow_ms) for each in report.latencies]
    high = max(y for _, y in (*stable, *shadow)) or 1.0
    x = Axis(stable[0][0], stable[-1][0], tuple((each, f"p{each:g}") for each, _ in stable))
    lines = [
        Line("stable", "stable", stable, f"{stable[-1][1]:.2f} ms"),
        Line("shadow", "canary", shadow, f"{shadow[-1][1]:.2f} ms"),
    ]
    note = "Milliseconds by percentile, from the gateway's stamp to the answer of the worker, of the same requests."
    return Plot("Latency", note, x, amounts(high), lines)


def _power(log_e: float) -> float:
    return max(LEAST_POWER, log_e / LN_10) if log_e > -log(1e300) else LEAST_POWER
