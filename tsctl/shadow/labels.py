"""Whether a shadow is wrong more often than stable, where labels arrive: McNemar's table. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.statistics.differences import DifferenceProcess
from tsctl.statistics.p_values import fair_coin
from tsctl.statistics.sequential import RatioProcess


@dataclass(frozen=True)
class McNemar:
    """Labelled requests by which version was right; only those where one was right alone say anything.

    Args:
        both_right, both_wrong: requests.
        shadow_wrong: only the shadow was wrong; `stable_wrong`: only stable was.
    """

    both_right: int = 0
    both_wrong: int = 0
    shadow_wrong: int = 0
    stable_wrong: int = 0

    def seen(self, is_stable_right: bool, is_shadow_right: bool) -> McNemar:
        """After one more label."""
        return McNemar(
            self.both_right + (is_stable_right and is_shadow_right),
            self.both_wrong + (not is_stable_right and not is_shadow_right),
            self.shadow_wrong + (is_stable_right and not is_shadow_right),
            self.stable_wrong + (not is_stable_right and is_shadow_right),
        )

    @property
    def labels(self) -> int:
        return self.both_right + self.both_wrong + self.shadow_wrong + self.stable_wrong

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value against "the shadow is no worse"; it may be read after every label.

        While both are equally often wrong, the one that is wrong alone is the shadow with probability 1/2.
        """
        return RatioProcess().seen(self.shadow_wrong, self.stable_wrong, 0.5).log_e

    @property
    def p_value(self) -> float:
        """Two-sided, of the exact test, for one look; 1 where no version was wrong alone."""
        return fair_coin(self.shadow_wrong, self.stable_wrong)

    def error_bounds(self, alpha: float) -> tuple[float, float]:
        """An interval of the shadow's error rate minus stable's, at all times at once."""
        same = self.both_right + self.both_wrong
        return DifferenceProcess(self.shadow_wrong, self.stable_wrong, same).bounds(alpha)
