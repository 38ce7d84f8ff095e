"""Whether one of two paired events comes more often than the other by more than a margin, looked at after every pair.

A pair has two events that came or did not, such as "the shadow's answer differs" and "stable's second answer differs".
Its difference X is 1, 0 or -1. A bet of a share l on X above a margin m multiplies the wealth by 1 + l (X - m). While
the mean of X, given the pairs before, is at most m, no bet has a mean above 1, whatever the rates are, however they
move, and however the two events of a pair depend on each other. So the wealth, averaged over a grid of bets, is an
e-process. No other kind of bet is valid under so few assumptions.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, log, log1p

from tsctl.statistics.sequential import PRECISION, log_mean

#: Bets as shares of the largest one that never loses more than everything: each is 0.71 of the one before.
BETS = tuple(2 ** (-number / 2) for number in range(21))


@dataclass(frozen=True)
class DifferenceProcess:
    """Counts of pairs by their difference; expected counts may have fractions.

    Args:
        first: pairs in which only the first event came.
        second: pairs in which only the second came.
        same: pairs in which both came, or neither.
    """

    first: float = 0
    second: float = 0
    same: float = 0

    @property
    def pairs(self) -> float:
        return self.first + self.second + self.same

    @property
    def estimate(self) -> float | None:
        """How much more often the first event comes, as a share of the pairs; None without pairs."""
        return (self.first - self.second) / self.pairs if self.pairs else None

    def seen(self, first: bool, second: bool) -> DifferenceProcess:
        """After one more pair."""
        if first == second:
            return replace(self, same=self.same + 1)
        return replace(self, first=self.first + first, second=self.second + second)

    def log_e_above(self, margin: float) -> float:
        """Logarithm of the e-value against "the first event comes at most `margin` more often than the second".

        Raises:
            ValueError: the margin is no difference of two rates, or leaves nothing to bet on.
        """
        if not -1 < margin < 1:
            raise ValueError(f"the margin must lie between -1 and 1, found {margin}")
        largest = 1 / (1 + margin)
        return log_mean([self._log_wealth(bet * largest, margin) for bet in BETS])

    def log_e_below(self, margin: float) -> float:
        """Logarithm of the e-value against "the first event comes at least `margin` more often than the second"."""
        return self._swapped().log_e_above(-margin)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """An interval that holds the difference of the rates at all times at once, with probability at least 1 - alpha.

        Raises:
            ValueError: alpha is out of its range.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
        if not self.pairs:
            return -1.0, 1.0
        limit = log(2 / alpha)
        low = _last(lambda margin: self.log_e_above(margin) >= limit)
        high = -_last(lambda margin: self.log_e_below(-margin) >= limit)
        return low, high

    def _swapped(self) -> DifferenceProcess:
        return DifferenceProcess(self.second, self.first, self.same)

    def _log_wealth(self, bet: float, margin: float) -> float:
        won = self.first * log1p(bet * (1 - margin)) if self.first else 0.0
        drawn = self.same * log1p(-bet * margin) if self.same else 0.0
        if not self.second:
            return won + drawn
        kept = 1 - bet * (1 + margin)
        return won + drawn + self.second * log(kept) if kept > 0 else -inf


def _last(is_rejected: Callable[[float], bool]) -> float:
    """The largest margin that is surely rejected; -1 where none is. Evidence falls as the margin grows."""
    low, high = -1 + PRECISION, 1 - PRECISION
    if not is_rejected(low):
        return -1.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if is_rejected(middle) else (low, middle)
    return low
