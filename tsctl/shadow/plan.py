"""Computes how many pairs a shadow comparison needs, before it begins. Pure.

Stable's second answers and the shadow's are taken as independent, which is the worst case: where both are wrong about
the same inputs, fewer pairs are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from tsctl.statistics.differences import DifferenceProcess
from tsctl.statistics.search import first, poisson_quantile
from tsctl.statistics.sequential import rejects

#: More pairs than these are none that anybody waits for.
MOST_PAIRS = 1 << 34
#: The probability of `surely`, as rollouts plan (tsctl/rollout/forecast/power.py).
SURELY = 0.8


@dataclass(frozen=True)
class PairsNeeded:
    """Pairs with a measured floor until a decision; None where there is none within MOST_PAIRS.

    Args:
        median: half of all comparisons have decided by then.
        surely: four of five have.
    """

    median: int | None
    surely: int | None


def pairs_to_find(rate: float, floor: float, limit: float, alpha: float) -> PairsNeeded:
    """Pairs until a shadow is found that disagrees with this rate, of which `floor` is noise.

    Args:
        rate: of all disagreements of the shadow, noise included.
        limit: that may be exceeded with probability alpha, `max_disagreement`.

    Raises:
        ValueError: a rate is none.
    """
    _check(rate, floor)
    return _needed(lambda pairs, off: rejects(_expected(pairs, rate, floor, -off).log_e_above(limit), alpha))


def pairs_to_pass(rate: float, floor: float, limit: float, alpha: float) -> PairsNeeded:
    """Pairs until a shadow that disagrees with this rate, of which `floor` is noise, is surely below the limit."""
    _check(rate, floor)
    return _needed(lambda pairs, off: rejects(_expected(pairs, rate, floor, off).log_e_below(limit), alpha))


def _needed(is_decided: Callable[[int, float], bool]) -> PairsNeeded:
    """The pairs from which on it is decided, where the count of disagreements is so many deviations off its mean."""

    def pairs(off: float) -> int | None:
        return first(lambda number: is_decided(number, off), MOST_PAIRS)

    return PairsNeeded(pairs(0.0), pairs(NormalDist().inv_cdf(SURELY)))


def _expected(pairs: int, rate: float, floor: float, deviations: float) -> DifferenceProcess:
    """Counts of this many pairs, the shadow's own disagreements so many standard deviations above their mean."""
    mean = pairs * rate * (1 - floor)
    only_first = min(poisson_quantile(mean, NormalDist().cdf(deviations)), pairs) if deviations else mean
    second = (pairs - only_first) * floor * (1 - rate) / (1 - rate * (1 - floor)) if rate * (1 - floor) < 1 else 0.0
    return DifferenceProcess(only_first, second, pairs - only_first - second)


def _check(rate: float, floor: float) -> None:
    if not 0 <= rate <= 1 or not 0 <= floor <= 1:
        raise ValueError(f"rates must lie between 0 and 1, found {rate} and {floor}")
