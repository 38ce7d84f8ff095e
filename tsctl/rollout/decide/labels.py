"""Labelled items of both versions, in pairs of one of each: is the canary wrong more often than stable? Pure.

Labels come late, in files, and not for all requests; and versions may record different shares of theirs. So no weight
says how many labelled items the canary should have. Instead each of its items is paired with one of stable's. While the
canary is wrong no more often, of the pairs in which one version alone is wrong, it is the canary in at most half of
them, whatever the base rate is. Which items form a pair depends on their order and versions alone, never on a label.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tsctl.statistics.sequential import RatioProcess


@dataclass(frozen=True)
class LabelCounts:
    """Labelled items since the rollout began.

    Args:
        stable: items of stable; `canary`: of the canary; so are those that are wrong by their label.
        pairs: of an item of each.
        stable_alone: pairs in which stable alone is wrong; `canary_alone`: in which the canary alone is.
    """

    stable: int = 0
    stable_wrong: int = 0
    canary: int = 0
    canary_wrong: int = 0
    pairs: int = 0
    stable_alone: int = 0
    canary_alone: int = 0

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value against "the canary is wrong no more often"; it may be read after every label."""
        return RatioProcess().seen(self.canary_alone, self.stable_alone, 0.5).log_e


NO_LABELS = LabelCounts()


def count_labelled(items: Iterable[tuple[bool, bool]]) -> LabelCounts:
    """Count items, and pair each with the last one of the other version that has no partner yet.

    More items at the end change no pair. Items near in the order are near in time, so that both see the same hours.

    Args:
        items: whether it is the canary's, and whether it is wrong, in the order in which labels came.
    """
    counts, alone = [[0, 0], [0, 0]], [0, 0]  # items and wrong ones, by version: stable, canary
    pairs = 0
    waiting: list[bool] = []  # wrong or not, all of one version
    waits_for_canary = True
    for is_canary, is_wrong in items:
        counts[is_canary][0] += 1
        counts[is_canary][1] += is_wrong
        if not waiting or is_canary != waits_for_canary:
            waits_for_canary = not is_canary
            waiting.append(is_wrong)
            continue
        pairs += 1
        if waiting.pop() != is_wrong:
            alone[is_canary if is_wrong else not is_canary] += 1
    (stable, stable_wrong), (canary, canary_wrong) = counts
    return LabelCounts(stable, stable_wrong, canary, canary_wrong, pairs, *alone)
