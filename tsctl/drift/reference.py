"""What a feature or a prediction looked like on the reference data: counts in bins, to and from JSON. Pure.

A number has bins that hold about equally many reference values, a category has one bin for each frequent value. Values
that come later are counted in the same bins, so counts of windows and of nodes add up. The edges of a number's bins are
values of the reference, and every count is exact: the shares of the true distribution in such bins have a known law,
which the detector needs (detector.py). Invariant: the same values in any order give the same reference.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tsctl.mistakes import first_mistake

#: Bins of a number between its least and its largest reference value.
BINS = 20
#: Categories with a bin of their own; the others share one.
MOST_CATEGORIES = 50
#: Where there are more categories, one with a bin of its own came so often: the share of one that was chosen because it
#: came more often than others by chance would be overestimated.
LEAST_OWN = 20
#: The fewest values that a reference is made of.
LEAST_VALUES = 50
#: Version of the JSON form.
FORMAT = 1

Counts = tuple[int, ...]


class UnusableReference(ValueError):
    """The values, or the stored form, make no reference."""


@dataclass(frozen=True)
class NumberReference:
    """A number on the reference data.

    Bins: missing; below the least value; between two edges, the lower one included, the last one with its upper edge
    too; above the largest value.

    Args:
        edges: growing; the first is the least value, the last one the largest. One edge: all values were equal.
        counts: of the reference values between each two edges; one count where there is one edge.
        missing: absent, null, or not a finite number.
    """

    edges: tuple[float, ...]
    counts: Counts
    missing: int = 0
    kind: Literal["number"] = "number"

    def __post_init__(self) -> None:
        if not self.edges or any(not math.isfinite(edge) for edge in self.edges):
            raise ValueError("edges must be finite numbers, at least one")
        if any(high <= low for low, high in pairwise(self.edges)):
            raise ValueError("edges must grow")
        if len(self.counts) != max(1, len(self.edges) - 1) or min(*self.counts, self.missing, 0) < 0:
            raise ValueError("counts must be one for each two edges, and none below 0")
        if sum(self.counts) + self.missing < LEAST_VALUES:
            raise ValueError(f"needs {LEAST_VALUES} values")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the bins."""
        if len(self.edges) == 1:
            inner = [f"{self.edges[0]:g}"]
        else:
            inner = [f"{low:g} to {high:g}" for low, high in pairwise(self.edges)]
        return ("missing", f"below {self.edges[0]:g}", *inner, f"above {self.edges[-1]:g}")

    @property
    def reference(self) -> Counts:
        """The reference values in each bin."""
        return (self.missing, 0, *self.counts, 0)

    def bin_of(self, value: Any) -> int:
        """The bin of a value."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return 0
        if value > self.edges[-1]:
            return len(self.counts) + 2
        place = bisect_right(self.edges, value)
        return min(place, len(self.counts)) + 1 if place else 1


@dataclass(frozen=True)
class CategoryReference:
    """A category on the reference data.

    Bins: missing; each category, the most frequent first; all others, those that the reference has not among them. How
    often the rare ones come again and how often new ones come is hard to tell apart, but their sum is known.

    Args:
        counts: of each of the most frequent categories.
        others: values of all other categories.
    """

    counts: dict[str, int]
    others: int = 0
    missing: int = 0
    kind: Literal["category"] = "category"

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts.values()) < 1 or min(self.others, self.missing) < 0:
            raise ValueError("counts must be above 0, and there must be one")
        if sum(self.reference) < LEAST_VALUES:
            raise ValueError(f"needs {LEAST_VALUES} values")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the bins."""
        return ("missing", *self.counts, "rare or new categories")

    @property
    def reference(self) -> Counts:
        """The reference values in each bin."""
        return (self.missing, *self.counts.values(), self.others)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.counts, start=1)}

    def bin_of(self, value: Any) -> int:
        """The bin of a value; anything but a missing one is a category by its text."""
        if value is None or value == "":
            return 0
        return self._places.get(str(value), len(self.counts) + 1)


Reference = NumberReference | CategoryReference
_STORED: TypeAdapter[dict[str, Reference]] = TypeAdapter(
    dict[str, Annotated[NumberReference | CategoryReference, Field(discriminator="kind")]]
)


def number_reference(values: Iterable[float | None], bins: int = BINS) -> NumberReference:
    """The reference of a number; an edge that many values share is one edge.

    Raises:
        UnusableReference: fewer than LEAST_VALUES values, or none that is a finite number.
    """
    known, missing = [], 0
    for value in values:
        if value is None or not math.isfinite(value):
            missing += 1
        else:
            known.append(float(value))
    known.sort()
    if not known or len(known) + missing < LEAST_VALUES:
        raise UnusableReference(
            f"a reference needs {LEAST_VALUES} values and a finite number among them, found {len(known)} numbers"
            f" and {missing} missing: give more reference data, or leave the feature out"
        )
    places = {len(known) * number // bins for number in range(bins)}
    edges = sorted({known[place] for place in places} | {known[-1]})
    below = [bisect_left(known, edge) for edge in edges[:-1]] + [len(known)]
    counts = tuple(high - low for low, high in pairwise(below)) or (len(known),)
    return NumberReference(tuple(edges), counts, missing)


def category_reference(values: Iterable[object]) -> CategoryReference:
    """The reference of a category; None and the empty text are missing.

    Raises:
        UnusableReference: fewer than LEAST_VALUES values, or none but missing ones.
    """
    all_counts = Counter("" if value is None else str(value) for value in values)
    missing = all_counts.pop("", 0)
    if not all_counts or sum(all_counts.values()) + missing < LEAST_VALUES:
        raise UnusableReference(
            f"a reference needs {LEAST_VALUES} values and a category among them, found {sum(all_counts.values())}"
            f" and {missing} missing: give more reference data, or leave the feature out"
        )
    ordered = sorted(all_counts.items(), key=lambda pair: (-pair[1], pair[0]))
    least = 2 if len(ordered) <= MOST_CATEGORIES else LEAST_OWN
    own = min(MOST_CATEGORIES, max(1, sum(number >= least for _, number in ordered)))
    return CategoryReference(dict(ordered[:own]), sum(number for _, number in ordered[own:]), missing)


def count(reference: Reference, values: Iterable[Any]) -> Counts:
    """How many values fall into each bin of a reference."""
    counts = [0] * len(reference.names)
    for value in values:
        counts[reference.bin_of(value)] += 1
    return tuple(counts)


def add(first: Sequence[int], second: Sequence[int]) -> Counts:
    """The counts of two windows, or of two nodes, together."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def to_json(references: Mapping[str, Reference]) -> dict[str, Any]:
    """The stored form of the references of all features, by name."""
    return {"version": FORMAT, "features": _STORED.dump_python(dict(references), mode="json")}


def from_json(stored: Any) -> dict[str, Reference]:
    """The references of a stored form.

    Raises:
        UnusableReference: another version, or what is no reference; the message names the feature.
    """
    version = stored.get("version") if isinstance(stored, Mapping) else None
    if version != FORMAT:
        raise UnusableReference(f"references of version {version!r}, {FORMAT} is expected: build the archive again")
    try:
        return _STORED.validate_python(stored.get("features"))
    except ValidationError as error:
        raise UnusableReference(f"the reference {first_mistake(error)}: build the archive again") from None
