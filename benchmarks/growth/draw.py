"""Draws the curves of an axis as an SVG file of its own, over logarithms, with the shapes of `tsctl.views.plot`. Pure.

Words are text, and colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.growth.curves import Curve
from benchmarks.growth.fit import power_law
from benchmarks.growth.table import bend_text, number, slope_text
from tsctl.views.plot import Axis, Line, Plot, powers

LEFT, TOP, WIDTH, HEIGHT, RIGHT, BELOW, LEGEND = 64, 34, 600, 260, 16, 44, 18
#: Of lines, light and dark; a plot has no more curves than these.
COLOURS = (
    ("#0969da", "#6cb6ff"), ("#c4570c", "#f0965a"), ("#1a7f37", "#56d364"), ("#8250df", "#bc8cff"),
    ("#bf3989", "#ff80c8"), ("#9a6700", "#e3b341"), ("#5f6772", "#98a1ac"), ("#005f73", "#76e3ea"),
)  # fmt: skip


def draw(title: str, x: str, curves: Sequence[Curve]) -> str:
    """One plot with all curves, which share a unit; values that are not above zero have no place in it.

    Raises:
        ValueError: nothing is above zero, or there are more curves than colours.
    """
    if len(curves) > len(COLOURS):
        raise ValueError(f"{title}: {len(curves)} curves, and {len(COLOURS)} colours")
    across, up = _axes(curves)
    plot = Plot(title, "", across, up, [line for place, curve in enumerate(curves) for line in _lines(place, curve)])
    height = TOP + HEIGHT + BELOW + LEGEND * len(curves) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style(len(curves))}</style>",
        _text(LEFT, 20, f"{title}, {curves[0].unit}", "title"),
        *_labels(plot, x),
        f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {plot.width} {plot.height}"'
        ' preserveAspectRatio="none" overflow="visible">',
        *(f'<path class="{style}" d="{shape}"/>' for style, shape in plot.paths),
        "</svg>",
        *(part for place, curve in enumerate(curves) for part in _legend(place, curve)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axes(curves: Sequence[Curve]) -> tuple[Axis, Axis]:
    places = [(point.x, value) for curve in curves for point in curve.points for value in point.rounds if value > 0]
    xs, ys = ([math.log10(place[side]) for place in places] for side in (0, 1))
    return powers(min(xs), max(xs)), powers(min(ys), max(ys))


def _lines(place: int, curve: Curve) -> Iterator[Line]:
    """The points with their spread, joined, and the power law that they follow."""
    points = [(math.log10(p.x), p.rounds, p.value) for p in curve.points if min(p.rounds) > 0]
    band = [(x, math.log10(min(rounds)), math.log10(max(rounds))) for x, rounds, _ in points]
    values = [(x, math.log10(value)) for x, _, value in points]
    yield Line(curve.name, f"of{place}", values, band=band if any(low < high for _, low, high in band) else ())
    apart = [(at, value) for x, y in values for at, value in ((x, y), (x, None))]
    yield Line(curve.name, f"of{place} dot", apart)
    if (law := power_law(curve.places)) is not None and values:
        ends = (values[0][0], values[-1][0])
        yield Line(curve.name, f"of{place} law", [(x, math.log10(law.at(10**x))) for x in ends])


def _labels(plot: Plot, x: str) -> Iterator[str]:
    for value, label in plot.y.ticks:
        yield _text(LEFT - 8, TOP + HEIGHT * (1 - plot.y.share(value)) + 4, label, "y")
    for value, label in plot.x.ticks:
        yield _text(LEFT + WIDTH * plot.x.share(value), TOP + HEIGHT + 18, label, "x")
    yield _text(LEFT + WIDTH / 2, TOP + HEIGHT + 36, x, "x")


def _legend(place: int, curve: Curve) -> Iterator[str]:
    y = TOP + HEIGHT + BELOW + LEGEND * (place + 1)
    yield f'<path class="of{place}" d="M{LEFT} {y - 4}h24"/>'
    first, last = curve.points[0], curve.points[-1]
    slope, bent = slope_text(curve), bend_text(curve)
    text = f"{curve.name}: {number(first.value)} to {number(last.value)} {curve.unit}"
    text += f", slope {slope}" if slope else ""
    yield _text(LEFT + 32, y, text + (f", bends {bent}" if bent else ""), "legend")


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'


def _style(curves: int) -> str:
    light = "".join(f"--c{place}:{COLOURS[place][0]};" for place in range(curves))
    dark = "".join(f"--c{place}:{COLOURS[place][1]};" for place in range(curves))
    of = "".join(
        f".of{place}{{stroke:var(--c{place})}}.of{place}-band{{fill:var(--c{place});fill-opacity:.18;stroke:none}}"
        for place in range(curves)
    )
    return (
        f"svg{{--ink:#1f2328;--rule:#d1d9e0;{light}}}"
        f"@media(prefers-color-scheme:dark){{svg{{--ink:#d1d7e0;--rule:#3d444d;{dark}}}}}"
        "path{fill:none;stroke-width:1.8;vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round}"
        f".grid{{stroke:var(--rule);stroke-width:1}}{of}"
        ".dot{stroke-width:6}.law{stroke-width:1;stroke-dasharray:4 4}"
        "text{fill:var(--ink);font:12px system-ui,sans-serif}.title{font-size:14px;font-weight:600}"
        ".y{text-anchor:end}.x{text-anchor:middle}"
    )
