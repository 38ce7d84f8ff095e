"""Where to go from a point: its neighbours, those first whose change has helped elsewhere. Pure.

Settings act mostly for themselves: what a second worker gains with one batch size, it gains roughly with another. So a
change that was seen at any pair of points that differ in nothing else is evidence for the same change at the best one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tsctl.tune.space import Settings, Space

#: A gain of goodput, as a logarithm, below which a change has done nothing.
NOTHING = 0.03
#: What an invalid point is worth, as a logarithm.
INVALID = -3.0


def neighbours(space: Space, point: Settings) -> list[Settings]:
    """The points one step away from this one, the change first that matters for most models."""
    shapes, delays = space.shapes, space.delays_of(point.engine)
    found = [replace(point, batch=batch) for batch in _beside(space.batches, point.batch)]
    found += [
        replace(point, workers=workers, threads=threads)
        for workers, threads in shapes
        if (workers, threads) != (point.workers, point.threads)
    ]
    found += [replace(point, compile=value) for value in space.compiles if value != point.compile]
    found += [replace(point, delay_ms=delay_ms) for delay_ms in _beside(delays, point.delay_ms)]
    found += [
        replace(point, engine=engine, delay_ms=space.delays_of(engine)[0])
        for engine in space.engines
        if engine != point.engine
    ]
    return found + [replace(point, dtype=dtype) for dtype in space.dtypes if dtype != point.dtype]


def moves(space: Space, point: Settings, known: Mapping[Settings, float]) -> list[Settings]:
    """Where to go from a point, in the order in which it should be tried.

    First all changes at once that have helped elsewhere, then each of them, then the neighbours of which nothing is
    known, and last those whose change has hurt. A batch that helped elsewhere may be several steps away.

    Args:
        known: goodput in the shortest rung of the points that were measured; 0 of an invalid one.
    """
    gains = {other: _gain_of(point, other, known) for other in neighbours(space, point)}
    gains = {**_leaps(space, point, known), **gains}  # of equal gains, the batch that was measured comes first
    order = sorted(gains, key=lambda other: -_rank(gains[other]))
    together = point
    for other in sorted(gains, key=lambda other: -gains[other]):
        if _rank(gains[other]) > 0:
            changed = other.changes(point)
            if all(getattr(together, name) == old for name, (_, old) in changed.items()):
                together = replace(together, **{name: new for name, (new, _) in changed.items()})
    return [*([together] if together != point else []), *order]


def _leaps(space: Space, point: Settings, known: Mapping[Settings, float]) -> dict[Settings, float]:
    """Batches farther away that helped where the rest of the settings was another, with what they gained there."""
    gains: dict[Settings, list[float]] = {}
    for before in known:
        for after in known:
            batches = (before.batch, after.batch)
            if batches[0] == point.batch != batches[1] and replace(before, batch=after.batch) == after:
                gains.setdefault(replace(point, batch=after.batch), []).append(_gain(known[before], known[after]))
    means = {other: sum(each) / len(each) for other, each in gains.items() if other not in known}
    return {other: gain for other, gain in means.items() if _rank(gain) > 0 and other.batch in space.batches}


def _rank(gain: float) -> int:
    return 0 if abs(gain) < NOTHING else 1 if gain > 0 else -1


def _gain_of(point: Settings, other: Settings, known: Mapping[Settings, float]) -> float:
    """The mean logarithm of what the change from `point` to `other` gained elsewhere; 0 where nothing is known."""
    gains = _evidence(point, other, known)
    return sum(gains) / len(gains) if gains else 0.0


def _evidence(point: Settings, other: Settings, known: Mapping[Settings, float]) -> list[float]:
    """Logarithms of what the change from `point` to `other` gained elsewhere."""
    change = _change(point, other)
    pairs = ((before, after) for before in known for after in known if before != after)
    return [_gain(known[before], known[after]) for before, after in pairs if _change(before, after) == change]


def _gain(before: float, after: float) -> float:
    if before <= 0 or after <= 0:
        return 0.0 if before <= 0 else INVALID
    return math.log(after / before)


def _change(before: Settings, after: Settings) -> tuple[object, ...]:
    """What distinguishes two points: of numbers the direction, of everything else the new value and the old one."""
    parts: list[object] = []
    for name in ("batch", "delay_ms"):
        one, other = getattr(before, name), getattr(after, name)
        parts.append((other > one) - (other < one))
    shapes = (before.workers, before.threads), (after.workers, after.threads)
    rest = ((before.engine, after.engine), (before.compile, after.compile), (before.dtype, after.dtype), shapes)
    return (*parts, *(pair if pair[0] != pair[1] else None for pair in rest))


def _beside(values: Sequence[int], value: int) -> list[int]:
    """The next larger value and the next smaller one."""
    place = values.index(value)
    return [*values[place + 1 : place + 2], *values[max(0, place - 1) : place]]
