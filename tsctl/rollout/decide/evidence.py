"""The evidence of a rollout: counts of both versions, and the e-processes that they feed. Pure.

The journal stores counts: folding the same windows in the same order gives the same evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.statistics import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of every prediction whose class was not known before the rollout began.
OTHER = "other"


@dataclass(frozen=True)
class OutcomeCounts:
    """Requests of one version by outcome."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions, where the handler names a class

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        names = self.classes.keys() | other.classes.keys()
        return OutcomeCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            {name: self.classes.get(name, 0) + other.classes.get(name, 0) for name in sorted(names)},
        )


@dataclass(frozen=True)
class Window:
    """Requests that were routed at one weight of the canary, since the last reading.

    Args:
        weight: of the canary, in hundredths of a percent.
        pairs: requests that stable and a shadow both answered.
        disagreements: pairs whose answers differ.
        users: counts of stable and the canary where the route divides users: the first event of each kind per user.
    """

    weight: int
    stable: OutcomeCounts = OutcomeCounts()
    canary: OutcomeCounts = OutcomeCounts()
    pairs: int = 0
    disagreements: int = 0
    users: tuple[OutcomeCounts, OutcomeCounts] | None = None

    @property
    def compared(self) -> tuple[OutcomeCounts, OutcomeCounts]:
        """Counts of stable and of the canary that fell to their version by chance."""
        return self.users or (self.stable, self.canary)

    def as_json(self) -> dict[str, Any]:
        """As the journal stores it, without zeros."""
        content: dict[str, Any] = {"weight": self.weight}
        sides = [("stable", self.stable), ("canary", self.canary)]
        if self.users is not None:
            content["is_by_user"] = True
            sides += [("stable_users", self.users[0]), ("canary_users", self.users[1])]
        for name, side in sides:
            counts = {k: v for k, v in vars(side).items() if v}
            if counts:
                content[name] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in counts.items()}
        return content | {k: getattr(self, k) for k in ("pairs", "disagreements") if getattr(self, k)}


def window_of(content: Mapping[str, Any]) -> Window:
    """The window that `as_json` stored."""

    def side(name: str) -> OutcomeCounts:
        return OutcomeCounts(**content.get(name, {}))

    return Window(
        content["weight"],
        side("stable"),
        side("canary"),
        content.get("pairs", 0),
        content.get("disagreements", 0),
        (side("stable_users"), side("canary_users")) if content.get("is_by_user") else None,
    )


@dataclass(frozen=True)
class Evidence:
    """Processes and counts since the rollout, or the policy that it runs under, began.

    Args:
        mix: by class. The classes are fixed before the first request, or their average would be no e-process.
    """

    errors: RatioProcess
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
        {name: RatioProcess(BOTH_WAYS) for name in named},
        RateProcess(policy.max_error_rate),
        RateProcess(policy.shadow_floor),
    )
