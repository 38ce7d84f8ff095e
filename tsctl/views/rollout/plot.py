"""Draws lines, bands and spans over time as a figure of HTML and inline SVG, without a script. Pure.

Invariant: the SVG holds shapes only and is stretched to its place; every word is HTML, so that it is as large on a
phone as on a screen. What lies beyond an axis is drawn at its edge. Words are escaped here, colours are CSS classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

#: Units of the SVG's own space; strokes do not grow with it.
WIDTH, HEIGHT = 1000.0, 300.0
#: Steps between times that people like to read, in seconds.
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """From the lowest to the highest value that is drawn, with the values that are written beside it."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def part(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one, never beyond."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low or 1.0)))


@dataclass(frozen=True)
class Line:
    """Values over time; where one is None, the line has a gap."""

    name: str
    style: str  # a CSS class
    points: Sequence[tuple[float, float | None]]
    told: str = ""  # what the legend says of it, such as its last value
    is_step: bool = False  # a value holds until the next one


@dataclass(frozen=True)
class Band:
    """Between two values over time."""

    style: str
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Plot:
    """One figure.

    Args:
        spans: times from and to which something lasted.
        moments: times at which something happened, each with a CSS class.
    """

    title: str
    note: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    spans: Sequence[tuple[float, float]] = ()
    moments: Sequence[tuple[float, str]] = ()


def figure(plot: Plot) -> str:
    """The plot as an HTML element."""
    legend = "".join(_legend(line) for line in plot.lines)
    ys = "".join(f'<span style="top:{100 - 100 * plot.y.part(v):.2f}%">{escape(t)}</span>' for v, t in plot.y.ticks)
    xs = "".join(f'<span style="left:{100 * plot.x.part(v):.2f}%">{escape(t)}</span>' for v, t in plot.x.ticks)
    return (
        f"<figure><figcaption><h3>{escape(plot.title)}</h3><p>{escape(plot.note)}</p></figcaption>"
        f'<ul class="legend">{legend}</ul><div class="frame"><div class="ys">{ys}</div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(plot.title)}">{"".join(_shapes(plot))}</svg><div class="xs">{xs}</div></div></figure>'
    )


def linear(high: float, unit: str = "", low: float = 0.0) -> Axis:
    """From `low` to at least `high` in about four round steps."""
    size = (high - low) / 4 or 1.0
    power = 10.0 ** floor(log10(size))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size * 0.999)
    count = max(1, ceil((high - low) / step - 1e-9))
    return Axis(
        low, low + count * step, tuple((low + i * step, f"{_short(low + i * step)}{unit}") for i in range(count + 1))
    )


def powers(low: float, high: float) -> Axis:
    """Of logarithms to base ten, from one whole power to another, with six values written at most."""
    first, last = floor(low), max(ceil(high), floor(low) + 1)
    step = ceil((last - first) / 5)
    return Axis(first, last, tuple((power, _power(power)) for power in range(first, last + 1, step)))


def times(seconds: float) -> Axis:
    """From 0 to so many seconds, with four to six times written."""
    step = next((step for step in _TIMES if seconds / step <= 6), 86_400 * ceil(seconds / 86_400 / 6))
    unit, size = next((u, s) for u, s in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)) if step >= s)
    marks = range(0, int(seconds) + 1, step)
    return Axis(0.0, max(seconds, 1.0), tuple((mark, f"{mark / size:g} {unit}" if mark else "0") for mark in marks))


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def _power(power: int) -> str:
    return f"{10.0**power:,.4g}" if -3 <= power <= 3 else "10" + str(power).translate(_SUPERSCRIPTS)


def _legend(line: Line) -> str:
    key = f'<svg viewBox="0 0 24 8" width="24" height="8"><path class="{line.style}" d="M0 4H24"/></svg>'
    told = f" <b>{escape(line.told)}</b>" if line.told else ""
    return f"<li>{key}{escape(line.name)}{told}</li>"


def _shapes(plot: Plot) -> Iterator[str]:
    def x(value: float) -> float:
        return WIDTH * plot.x.part(value)

    def y(value: float) -> float:
        return HEIGHT - HEIGHT * plot.y.part(value)

    for begin, end in plot.spans:
        width = max(1.0, x(end) - x(begin))
        yield f'<rect class="span" x="{x(begin):.1f}" y="0" width="{width:.1f}" height="{HEIGHT:g}"/>'
    for value, _ in plot.y.ticks:
        yield f'<path class="grid" d="M0 {y(value):.1f}H{WIDTH:g}"/>'
    for moment, style in plot.moments:
        yield f'<path class="{style}" d="M{x(moment):.1f} 0V{HEIGHT:g}"/>'
    for band in plot.bands:
        upper = [f"{x(at):.1f} {y(high):.1f}" for at, _, high in band.points]
        lower = [f"{x(at):.1f} {y(low):.1f}" for at, low, _ in reversed(band.points)]
        if upper:
            yield f'<path class="{band.style}" d="M{"L".join([*upper, *lower])}Z"/>'
    for line in plot.lines:
        for part in _unbroken(line.points):
            places = [(f"{x(at):.1f}", f"{y(value):.1f}") for at, value in part]
            joined = (f"H{a}V{b}" if line.is_step else f"L{a} {b}" for a, b in places[1:])
            yield f'<path class="{line.style}" d="M{places[0][0]} {places[0][1]}h0{"".join(joined)}"/>'


def _unbroken(points: Iterable[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    part: list[tuple[float, float]] = []
    for at, value in points:
        if value is not None:
            part.append((at, value))
        elif part:
            yield part
            part = []
    if part:
        yield part
