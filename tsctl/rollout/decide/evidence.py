"""The evidence of a rollout: counts of both versions, and the e-processes that they feed. Pure.

The journal stores counts: folding the same windows in the same order gives the same evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.statistics import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of every prediction whose class was not known before the rollout began.
OTHER = "other"


@dataclass(frozen=True)
class OutcomeCounts:
    """Requests of one version by outcome.

    Args:
        slow: answers, and clients that left, after the slow threshold.
        refused: as the client's mistake.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions, where the handler names a class
    refused: int = 0

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        names = self.classes.keys() | other.classes.keys()
        return OutcomeCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            {name: self.classes.get(name, 0) + other.classes.get(name, 0) for name in sorted(names)},
            self.refused + other.refused,
        )


@dataclass(frozen=True)
class Window:
    """Requests that were routed at one weight of the canary, since the last reading.

    Args:
        weight: of the canary, in hundredths of a percent.
        pairs: requests that stable and a shadow both answered.
        disagreements: pairs whose answers differ.
        is_by_user: the route divides users; `stable_users` and `canary_users` count each user's first event of a kind.
    """

    weight: int
    stable: OutcomeCounts = OutcomeCounts()
    canary: OutcomeCounts = OutcomeCounts()
    pairs: int = 0
    disagreements: int = 0
    is_by_user: bool = False
    stable_users: OutcomeCounts = OutcomeCounts()
    canary_users: OutcomeCounts = OutcomeCounts()

    @property
    def compared(self) -> tuple[OutcomeCounts, OutcomeCounts]:
        """Counts of stable and of the canary that fell to their version by chance."""
        return (self.stable_users, self.canary_users) if self.is_by_user else (self.stable, self.canary)


@dataclass(frozen=True)
class Evidence:
    """Processes and counts since the rollout, or the policy that it runs under, began.

    Args:
        mix: by class. The classes are fixed before the first request, or their average would be no e-process.
    """

    errors: RatioProcess
    refused: RatioProcess
    slow: RatioProcess
    mix: Mapping[str, RatioProcess]
    limit: RateProcess
    disagreement: RateProcess
    stable: OutcomeCounts = OutcomeCounts()
    canary: OutcomeCounts = OutcomeCounts()

    def seen(self, window: Window, is_settled: bool = True) -> Evidence:
        """The evidence with one more window; a window without a weight of the canary has nothing to compare.

        Args:
            is_settled: False leaves slow answers out: workers that have just got more requests may still warm up.
        """
        if not window.weight:
            return self
        after = replace(
            self,
            limit=self.limit.seen(window.canary.errors, window.canary.requests),
            disagreement=self.disagreement.seen(window.disagreements, window.pairs),
            stable=self.stable + window.stable,
            canary=self.canary + window.canary,
        )
        if window.weight == TOTAL:  # no request went to stable
            return after
        weight = window.weight / TOTAL
        stable, canary = window.compared
        return replace(
            after,
            errors=self.errors.seen(canary.errors, stable.errors, weight),
            refused=self.refused.seen(canary.refused, stable.refused, weight),
            slow=self.slow.seen(canary.slow, stable.slow, weight) if is_settled else self.slow,
            mix={
                name: process.seen(class_count(canary, name, self.mix), class_count(stable, name, self.mix), weight)
                for name, process in self.mix.items()
            },
        )

    @property
    def logs(self) -> dict[str, float]:
        """Logarithm of each signal's e-value."""
        mix = log_mean([process.log_e for process in self.mix.values()]) if self.mix else 0.0
        return {
            "errors": self.errors.log_e,
            "refused": self.refused.log_e,
            "slow": self.slow.log_e,
            "mix": mix,
            "disagreement": self.disagreement.log_e,
            "limit": self.limit.log_e,
        }


def class_count(counts: OutcomeCounts, name: str, known: Collection[str]) -> int:
    """Predictions of a class; those of a class that was not known before are of OTHER."""
    if name != OTHER:
        return counts.classes.get(name, 0)
    return sum(count for label, count in counts.classes.items() if label not in known or label == OTHER)


def no_evidence(policy: RolloutPolicy, classes: Sequence[str]) -> Evidence:
    """Before the first request.

    Args:
        classes: that stable predicted before the rollout began; none: the class distribution is not judged.
    """
    named = dict.fromkeys([*classes, OTHER]) if classes else {}
    return Evidence(
        RatioProcess(),
        RatioProcess(),
        RatioProcess(),
        {name: RatioProcess(BOTH_WAYS) for name in named},
        RateProcess(policy.max_error_rate),
        RateProcess(policy.shadow_floor),
    )
