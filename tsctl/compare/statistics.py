"""Medians, spreads and percentiles of what was measured. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    def overlaps(self, other: Spread) -> bool:
        """Whether the rounds of both reach into each other, so that no difference was measured."""
        return self.least <= other.most and other.least <= self.most


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of the rounds; None where there is none."""
    rounds = list(values)
    return Spread(statistics.median(rounds), min(rounds), max(rounds)) if rounds else None


def percentile(ordered: Sequence[float], share: float, missing: int = 0) -> float:
    """The least value that `share` of all do not exceed (nearest rank).

    Args:
        ordered: from the least to the most.
        missing: how many more there are that are larger than any value, such as requests that got no answer.

    Returns:
        Infinity where one of the missing is that value, or there is none at all.
    """
    rank = math.ceil(share * (len(ordered) + missing))
    return ordered[max(rank, 1) - 1] if max(rank, 1) <= len(ordered) else math.inf
