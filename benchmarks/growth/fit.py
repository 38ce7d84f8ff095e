"""Describes a curve: the power law that it follows, where it bends, and what one more costs. Pure.

A power law y = a x^slope is a straight line over logarithms: slope 0 means that the number does not matter, 1 that
twice as many cost twice as much, 2 four times. A fixed cost with a cost for each on top is no power law: it bends from
0 to 1 where both are equal, and `Line` says both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Places = Sequence[tuple[float, float]]

#: Of every interval.
CONFIDENCE = 0.95
#: A bend is reported where the slopes of both sides differ by at least this much, and chance would not explain it.
LEAST_BEND = 0.2
#: Each side of a bend has at least so many points, its end among them.
LEAST_POINTS = 3


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Power:
    """y = factor * x^slope."""

    slope: Estimate
    factor: float

    def at(self, x: float) -> float:
        return self.factor * float(x**self.slope.value)


@dataclass(frozen=True)
class Bend:
    """Where the slope changes, and the slopes of both sides."""

    at: float
    before: float
    after: float


@dataclass(frozen=True)
class Line:
    """y = fixed + each * x, with the errors of all points counted in percent."""

    fixed: Estimate
    each: Estimate

    def at(self, x: float) -> float:
        return self.fixed.value + self.each.value * x


def power_law(places: Places) -> Power | None:
    """The power law nearest to the points; None for fewer than three above zero."""
    logs = _logs(places)
    if len(logs) < LEAST_POINTS:
        return None
    slope, start, error = _least_squares([(x, y, 1.0) for x, y in logs])[:3]
    wide = error * _t(len(logs) - 2)
    return Power(Estimate(slope, slope - wide, slope + wide), math.exp(start))


def bend(places: Places) -> Bend | None:
    """The place of the sharpest bend; None where one power law explains the points as well.

    Two straight lines over logarithms that meet at a point are compared with a single one by the F-test.
    """
    logs = _logs(places)
    count = len(logs)
    if count < 2 * LEAST_POINTS:
        return None
    single = _residual(logs, _slopes(logs, None))
    fits = []
    for knot, _ in logs[LEAST_POINTS - 1 : count - LEAST_POINTS + 1]:
        slopes = _slopes(logs, knot)
        fits.append((_residual(logs, slopes, knot), knot, slopes))
    left, knot, (_, before, more) = min(fits)
    if abs(more) < LEAST_BEND:
        return None
    freedom = count - 4  # two slopes, one height, and the place of the bend
    if left > 0 and (single - left) / 2 / (left / freedom) < _f(2, freedom):
        return None
    return Bend(math.exp(knot), before, before + more)


def line(places: Places) -> Line | None:
    """The line nearest to the points, whose errors count in percent; None for fewer than three above zero."""
    known = [(x, y) for x, y in places if y > 0]
    if len(known) < LEAST_POINTS:
        return None
    each, fixed, error, error_of_fixed = _least_squares([(x, y, 1 / y**2) for x, y in known])
    wide = _t(len(known) - 2)
    return Line(
        Estimate(fixed, fixed - wide * error_of_fixed, fixed + wide * error_of_fixed),
        Estimate(each, each - wide * error, each + wide * error),
    )


def _logs(places: Places) -> list[tuple[float, float]]:
    return sorted((math.log(x), math.log(y)) for x, y in places if x > 0 and y > 0)


def _least_squares(weighted: Sequence[tuple[float, float, float]]) -> tuple[float, float, float, float]:
    """Slope and height of the line through weighted points, and the standard error of each."""
    total = sum(w for _, _, w in weighted)
    middle = sum(w * x for x, _, w in weighted) / total
    height = sum(w * y for _, y, w in weighted) / total
    spread = sum(w * (x - middle) ** 2 for x, _, w in weighted)
    slope = sum(w * (x - middle) * (y - height) for x, y, w in weighted) / spread
    start = height - slope * middle
    rest = sum(w * (y - start - slope * x) ** 2 for x, y, w in weighted)
    variance = rest / (len(weighted) - 2)
    return slope, start, math.sqrt(variance / spread), math.sqrt(variance * (1 / total + middle**2 / spread))


def _slopes(logs: Places, knot: float | None) -> tuple[float, float, float]:
    """Height, slope, and what the slope changes by at the knot, of the broken line nearest to the points."""
    import numpy as np

    columns = [[1.0, x, max(0.0, x - knot) if knot is not None else 0.0] for x, _ in logs]
    solved = np.linalg.lstsq(np.array(columns), np.array([y for _, y in logs]), rcond=None)[0]
    return float(solved[0]), float(solved[1]), float(solved[2])


def _residual(logs: Places, slopes: tuple[float, float, float], knot: float | None = None) -> float:
    start, slope, more = slopes
    return sum((y - start - slope * x - more * (max(0.0, x - knot) if knot is not None else 0.0)) ** 2 for x, y in logs)


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _f(more: int, freedom: int) -> float:
    from scipy.stats import f

    return float(f.ppf(CONFIDENCE, more, freedom))
