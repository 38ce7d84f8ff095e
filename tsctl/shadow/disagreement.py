"""Whether a shadow disagrees with stable more often than stable disagrees with itself. Pure.

Invariants: without a measured noise floor nothing is decided; a shadow that is as noisy as stable exceeds its limit
with probability at most alpha, however often it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tsctl.shadow.comparators import Comparator, Comparison
from tsctl.shadow.pairing import Answer, Pair
from tsctl.statistics.differences import DifferenceProcess
from tsctl.statistics.sequential import log_mean, rate_bounds, rejects


class Repeat(StrEnum):
    """How stable answered the same input again."""

    ALONE = "alone"
    BATCH = "in another batch"


def compare(stable: Answer, other: Answer, comparator: Comparator) -> Comparison:
    """Compare two answers to one input; two problems agree where their statuses do.

    Raises:
        NotComparable: the comparator is none for stable's answer.
    """
    if stable.status != other.status:
        return Comparison(True, 1.0, f"status {other.status} in place of {stable.status}")
    if stable.status != 200:
        return Comparison(False)  # a problem's detail holds the request's id
    return comparator(stable.value, other.value)


@dataclass(frozen=True)
class Disagreement:
    """Counts of pairs, and for each kind of repeat the process that compares the shadow with it.

    A request of which stable was asked again has two events: the shadow's answer differs from stable's first, and
    stable's own second answer does. Both are of the same input, so hard inputs count for neither side.

    Args:
        pairs: compared so far; `differing`: those whose answers differ.
        floors: by kind of repeat. A kind that is not a key is not measured.
        repeats_differing: second answers of stable that differ from its first, by kind.
    """

    pairs: int = 0
    differing: int = 0
    floors: Mapping[Repeat, DifferenceProcess] = field(
        default_factory=lambda: {repeat: DifferenceProcess() for repeat in Repeat}
    )
    repeats_differing: Mapping[Repeat, int] = field(default_factory=lambda: dict.fromkeys(Repeat, 0))

    def seen(self, differs: bool, repeats: Mapping[Repeat, bool]) -> Disagreement:
        """After one more pair.

        Args:
            differs: the shadow's answer.
            repeats: whether stable's second answers differ, by kind; empty where it was not asked again.
        """
        floors = {kind: p.seen(differs, repeats[kind]) if kind in repeats else p for kind, p in self.floors.items()}
        noisy = {kind: count + repeats.get(kind, False) for kind, count in self.repeats_differing.items()}
        return Disagreement(self.pairs + 1, self.differing + differs, floors, noisy)

    def log_e_above(self, limit: float) -> float:
        """Logarithm of the e-value against "the shadow disagrees at most `limit` more often than stable with itself".

        The smallest over the kinds of repeats: a shadow that is as noisy as stable is in either way is no worse.
        """
        return min((process.log_e_above(limit) for process in self.floors.values()), default=0.0)

    def log_e_below(self, limit: float) -> float:
        """Logarithm of the e-value against "it disagrees at least `limit` more often than stable in either way"."""
        return log_mean([process.log_e_below(limit) for process in self.floors.values()] or [0.0])

    def exceeds(self, limit: float, alpha: float) -> bool:
        """Whether the disagreement above the floor surely exceeds the limit."""
        return rejects(self.log_e_above(limit), alpha)

    def stays_below(self, limit: float, alpha: float) -> bool:
        """Whether the disagreement above the floor is surely below the limit."""
        return rejects(self.log_e_below(limit), alpha)

    def rate_bounds(self, alpha: float) -> tuple[float, float]:
        """An interval of the rate of disagreement, noise included, that holds at all times at once."""
        return rate_bounds(self.differing, self.pairs, alpha)

    def floor_bounds(self, repeat: Repeat, alpha: float) -> tuple[float, float]:
        """The same of one noise floor."""
        return rate_bounds(self.repeats_differing[repeat], int(self.floors[repeat].pairs), alpha)

    def above_floor_bounds(self, repeat: Repeat, alpha: float) -> tuple[float, float]:
        """The same of the disagreement minus one noise floor."""
        return self.floors[repeat].bounds(alpha)


def observe(
    evidence: Disagreement, pair: Pair, repeats: Mapping[Repeat, Answer], comparator: Comparator
) -> tuple[Disagreement, Comparison]:
    """Compare one pair, and stable's second answers with its first; the evidence after it, and the comparison."""
    comparison = compare(pair.stable, pair.shadow, comparator)
    noisy = {kind: compare(pair.stable, again, comparator).differs for kind, again in repeats.items()}
    return evidence.seen(comparison.differs, noisy), comparison


def without(evidence: Disagreement, repeat: Repeat) -> Disagreement:
    """The evidence without one kind of repeat, for a version that is never asked again in that way."""
    return replace(evidence, floors={kind: process for kind, process in evidence.floors.items() if kind is not repeat})
