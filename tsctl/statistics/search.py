"""Finds how many requests something needs: Poisson quantiles, and the first number that is enough. Pure."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, sqrt
from statistics import NormalDist

#: Above this mean a Poisson quantile is approximated by a normal one with a correction for skewness.
MOST_EXACT = 50.0


def poisson_quantile(mean: float, level: float) -> int:
    """Return the smallest count that is not exceeded with this probability; above MOST_EXACT by Cornish-Fisher."""
    if mean > MOST_EXACT:
        normal = NormalDist().inv_cdf(level)
        return max(0, round(mean + normal * sqrt(mean) + (normal**2 - 1) / 6))
    count, term = 0, exp(-mean)
    below = term
    while below < level:
        count += 1
        term *= mean / count
        below += term
    return count


def first(is_true: Callable[[int], bool], most: int) -> int | None:
    """Find the smallest number from 1 to `most` from which on the predicate is true; None if it never is."""
    if most < 1:
        return None
    high = 1
    while not is_true(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_true(middle) else (middle, high)
    return high
