"""Computes the coordinates of lines, bands and spans over an axis, such as time, for the template figure.html. Pure.

Invariant: a value beyond an axis is drawn at its edge, so nothing lies outside of the plot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import ClassVar

#: Distances between time labels that are easy to read, in seconds.
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """The lowest and the highest value that is drawn, and the labelled values."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Position of a value: 0 at the low end, 1 at the high end, never beyond."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low or 1.0)))


@dataclass(frozen=True)
class Line:
    """Values over time; a value of None is a gap."""

    name: str
    style: str  # a CSS class
    points: Sequence[tuple[float, float | None]]
    last: str = ""  # text in the legend, such as the last value
    is_step: bool = False  # a value holds until the next one
    band: Sequence[tuple[float, float, float]] = ()  # two values over time; the area between them is filled


@dataclass(frozen=True)
class Plot:
    """One figure."""

    #: Units of the SVG's own space, which is stretched to its place; strokes keep their width.
    width: ClassVar[int] = 1000
    height: ClassVar[int] = 300

    title: str
    note: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    spans: Sequence[tuple[float, float]] = ()  # begin and end of periods that are shaded
    moments: Sequence[tuple[float, str]] = ()  # times with a vertical line, each with a CSS class

    @property
    def paths(self) -> Iterator[tuple[str, str]]:
        """CSS class and path data of every shape, in the order in which they are drawn."""
        for begin, end in self.spans:
            left = self.width * self.x.share(begin)
            right = max(left + 1.0, self.width * self.x.share(end))
            yield "span", f"M{left:.1f} 0H{right:.1f}V{self.height}H{left:.1f}Z"
        for value, _ in self.y.ticks:
            yield "grid", f"M0 {self._y(value)}H{self.width}"
        for moment, style in self.moments:
            yield style, f"M{self._x(moment)} 0V{self.height}"
        for line in self.lines:
            upper = [f"{self._x(at)} {self._y(high)}" for at, _, high in line.band]
            lower = [f"{self._x(at)} {self._y(low)}" for at, low, _ in reversed(line.band)]
            if upper:
                yield f"{line.style}-band", f"M{'L'.join([*upper, *lower])}Z"
        for line in self.lines:
            for part in _unbroken(line.points):
                (x, y), *places = [(self._x(at), self._y(value)) for at, value in part]
                joined = (f"H{x}V{y}" if line.is_step else f"L{x} {y}" for x, y in places)
                yield line.style, f"M{x} {y}h0{''.join(joined)}"

    def _x(self, value: float) -> str:
        return f"{self.width * self.x.share(value):.1f}"

    def _y(self, value: float) -> str:
        return f"{self.height * (1 - self.y.share(value)):.1f}"


def percents(high: float) -> Axis:
    """Make an axis from 0% to at least `high` in about four round steps."""
    steps = _round_steps(high)
    return Axis(0.0, steps[-1], tuple((value, f"{value:.4g}%") for value in steps))


def amounts(high: float) -> Axis:
    """Make an axis from 0 to at least `high` in about four round steps."""
    steps = _round_steps(high)
    return Axis(0.0, steps[-1], tuple((value, f"{value:,.6g}") for value in steps))


def powers(low: float, high: float) -> Axis:
    """Make an axis of logarithms to base ten between whole powers, with six labels at most."""
    first, last = floor(low), max(ceil(high), floor(low) + 1)
    step = ceil((last - first) / 5)
    return Axis(first, last, tuple((power, _power(power)) for power in range(first, last + 1, step)))


def times(seconds: float) -> Axis:
    """Make an axis from 0 to this many seconds, with four to six labels."""
    step = next((step for step in _TIME_STEPS if seconds / step <= 6), 86_400 * ceil(seconds / 86_400 / 6))
    unit, size = next((u, s) for u, s in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)) if step >= s)
    labelled = range(0, int(seconds) + 1, step)
    return Axis(0.0, max(seconds, 1.0), tuple((at, f"{at / size:g} {unit}" if at else "0") for at in labelled))


def _round_steps(high: float) -> list[float]:
    power = 10.0 ** floor(log10(high / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= high / 4 * 0.999)
    count = max(1, ceil(high / step - 1e-9))
    return [i * step for i in range(count + 1)]


def _power(power: int) -> str:
    return f"{10.0**power:,.4g}" if -3 <= power <= 3 else "10" + str(power).translate(_SUPERSCRIPTS)


def _unbroken(points: Iterable[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Split a line at its gaps."""
    for is_gap, part in groupby(points, lambda point: point[1] is None):
        if not is_gap:
            yield [(at, value) for at, value in part if value is not None]
