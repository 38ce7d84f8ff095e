"""Chooses the plots of a comparison. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tsctl.compare.result import LOAD_SHARES, Comparison, Measured
from tsctl.views.plot import Line, Plot, amounts, powers

#: CSS classes of engines, in their order; a comparison of more uses them again.
STYLES = 8


@dataclass(frozen=True)
class Bar:
    """One engine's share of the bare model's speed."""

    name: str
    style: str  # a CSS class
    share: float  # of the longest bar
    text: str


def plots(comparison: Comparison) -> Iterator[Plot]:
    """Yield every plot; none where nothing was measured."""
    measured = [(place, engine) for place, engine in enumerate(comparison.engines) if engine.turns]
    if not measured:
        return
    lines = [Line(engine.title, style_of(place), _points(engine)) for place, engine in measured]
    places = [(x, y) for line in lines for x, y in line.points if y is not None]
    if not places:
        return
    high, latencies = max(x for x, _ in places), [y for _, y in places]
    slo = comparison.setting.slo_p99_ms
    limit = [] if slo is None else [math.log10(slo)]
    x, y = amounts(high), powers(min([*latencies, *limit]), max([*latencies, *limit]))
    if slo is not None:
        ends = [(x.low, limit[0]), (x.high, limit[0])]
        lines.append(Line("limit", "threshold", ends, f"{slo:g} ms"))
    shares = ", ".join(f"{share:.0%}" for share in LOAD_SHARES)
    note = (
        f"p99 in milliseconds (logarithmic) over answered requests/s of an open loop, at {shares} of the engine's"
        " capacity, counted from the moment at which a request was meant to be sent. Medians of the rounds."
    )
    yield Plot("Throughput against p99", note, x, y, lines)


def bars(comparison: Comparison) -> list[Bar]:
    """Each engine's share of the speed that the model has without a server; none where that was not measured."""
    bare = comparison.bare.speed
    if bare is None or not bare.median:
        return []
    shares = {
        place: speed.median / bare.median
        for place, engine in enumerate(comparison.engines)
        if (speed := engine.over_rounds(lambda turn: turn.capacity_s)) is not None
    }
    longest = max([1.0, *shares.values()])
    return [
        Bar(comparison.engines[place].title, style_of(place), share / longest, f"{share:.0%}")
        for place, share in shares.items()
    ]


def style_of(place: int) -> str:
    """The CSS class of the engine at this place."""
    return f"engine-{place % STYLES}"


def _points(engine: Measured) -> list[tuple[float, float | None]]:
    loads = list(zip(*(turn.loads for turn in engine.turns), strict=True))
    points = [(median(load.answered_s for load in rounds), median(load.p99_ms for load in rounds)) for rounds in loads]
    return [(rate, math.log10(p99) if 0 < p99 < math.inf else None) for rate, p99 in sorted(points)]
