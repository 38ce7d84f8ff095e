"""Finds the slices of the traffic in which a shadow disagrees more often than elsewhere. Pure.

A slice is a name, such as `class 7` or `width from 3.1 below 4.5`, and a request may be in several. Each request of a
slice is paired with the next request outside of it, and the difference is bet on: while the slice is no worse, its
e-value exceeds 1 / alpha with probability at most alpha, whenever it is read. Invariant: at most `alpha` of the named
slices are expected to be wrong, however many were looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tsctl.statistics.differences import DifferenceProcess
from tsctl.statistics.multiple import e_benjamini_hochberg
from tsctl.statistics.sequential import rate_bounds

#: Slices that are looked at; later names are not.
MOST_SLICES = 500
#: Requests of a slice, or outside of it, that wait for their partner.
MOST_WAITING = 1000


@dataclass(frozen=True)
class Slice:
    """One slice that is worse than the rest.

    Args:
        pairs: of answers to its requests; `differing`: those that differ.
        low, high: bounds of its rate of disagreement, at all times at once.
        log_e: logarithm of the e-value against "no worse than the rest".
    """

    name: str
    pairs: int
    differing: int
    low: float
    high: float
    log_e: float


NO_PAIR = DifferenceProcess()


@dataclass
class _Counts:
    pairs: int = 0
    differing: int = 0
    process: DifferenceProcess = NO_PAIR
    inside: deque[bool] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    outside: deque[bool] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))

    def seen(self, differs: bool, is_inside: bool) -> None:
        waiting, others = (self.outside, self.inside) if is_inside else (self.inside, self.outside)
        if not waiting:
            others.append(differs)
            return
        other = waiting.popleft()
        self.process = self.process.seen(*((differs, other) if is_inside else (other, differs)))


class Slices:
    """All slices that were seen.

    Attributes:
        left_out: names that came after MOST_SLICES others.
    """

    def __init__(self) -> None:
        self._slices: dict[str, _Counts] = {}
        self.left_out: set[str] = set()

    @property
    def looked_at(self) -> int:
        return len(self._slices)

    def seen(self, names: Collection[str], differs: bool) -> None:
        """Count one pair of answers to a request in these slices, and outside of all others."""
        for name in names:
            if name not in self._slices:
                if len(self._slices) >= MOST_SLICES:
                    if len(self.left_out) < MOST_SLICES:
                        self.left_out.add(name)
                    continue
                self._slices[name] = _Counts()
            self._slices[name].pairs += 1
            self._slices[name].differing += differs
        for name, counts in self._slices.items():
            counts.seen(differs, name in names)

    def worst(self, alpha: float) -> list[Slice]:
        """The slices that disagree more often than the rest, the strongest evidence first."""
        names = list(self._slices)
        logs = [self._slices[name].process.log_e_above(0.0) for name in names]
        is_worse = e_benjamini_hochberg(logs, alpha)
        found = [
            Slice(name, counts.pairs, counts.differing, *rate_bounds(counts.differing, counts.pairs, alpha), log_e)
            for name, log_e, worse in zip(names, logs, is_worse, strict=True)
            if worse
            for counts in [self._slices[name]]
        ]
        return sorted(found, key=lambda each: -each.log_e)


def slice_names(
    features: Mapping[str, float | str | None], edges: Mapping[str, Sequence[float]], label: str | None = None
) -> list[str]:
    """The slices of one request: of each feature its category, or the bin of its number, and the class of stable.

    Args:
        features: None: the request has no such feature. A number without edges is in no slice.
        edges: where the bins of a number begin, growing, by feature; fixed before the first pair.
        label: that stable predicted.
    """
    names = [] if label is None else [f"class {label}"]
    for name, value in features.items():
        if value is None:
            names.append(f"{name} missing")
        elif isinstance(value, str):
            names.append(f"{name} {value}")
        elif cuts := edges.get(name):
            place = bisect_right(cuts, value)
            low = "" if not place else f" from {cuts[place - 1]:g}"
            high = "" if place == len(cuts) else f" below {cuts[place]:g}"
            names.append(f"{name}{low}{high}")
    return names
