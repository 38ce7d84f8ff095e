"""What a rollout has seen so far: counts of both versions, and the e-processes that they feed. Pure.

Evidence is never stored, only the counts that came: folding the same windows in the same order gives the same evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.statistics import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of everything that had no name before the rollout began.
OTHER = "other"


@dataclass(frozen=True)
class OutcomeCounts:
    """What the requests of one version came to."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions by class, where the handler tells one

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
    """Requests that were routed at one weight of the canary, since evidence was read last."""

    weight: int  # of the canary, in hundredths of a percent
    stable: OutcomeCounts = OutcomeCounts()
    canary: OutcomeCounts = OutcomeCounts()
    pairs: int = 0  # requests that stable and a shadow answered both
    disagreements: int = 0  # pairs whose answers differ
    #: Of stable and the canary, where users and not requests were divided: what each user had for the first time.
    users: tuple[OutcomeCounts, OutcomeCounts] | None = None

    @property
    def compared(self) -> tuple[OutcomeCounts, OutcomeCounts]:
        """Events of stable and of the canary that fell to their version by chance."""
        return self.users or (self.stable, self.canary)

    def as_json(self) -> dict[str, Any]:
        """As the journal has it; what is zero is left out."""
        found: dict[str, Any] = {"weight": self.weight}
        sides = [("stable", self.stable), ("canary", self.canary)]
        if self.users is not None:
            found["is_by_user"] = True
            sides += [("stable_users", self.users[0]), ("canary_users", self.users[1])]
        for name, seen in sides:
            counts = {k: v for k, v in vars(seen).items() if v}
            if counts:
                found[name] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in counts.items()}
        return found | {k: getattr(self, k) for k in ("pairs", "disagreements") if getattr(self, k)}


def window_of(content: Mapping[str, Any]) -> Window:
    """What `as_json` wrote, read back."""

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
        mix: by class. The classes are fixed before the first request, or their average were no e-process.
    """

    errors: RatioProcess
    slow: RatioProcess
    mix: Mapping[str, RatioProcess]
    limit: RateProcess
    disagreement: RateProcess
    stable: OutcomeCounts = OutcomeCounts()
    canary: OutcomeCounts = OutcomeCounts()

    def seen(self, window: Window, is_settled: bool = True) -> Evidence:
        """After one more window; before the canary had a weight, there was nothing to compare.

        Args:
            is_settled: False leaves slow answers out: workers that just got more requests may still be warming.
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
        if window.weight == TOTAL:  # there is nobody to compare with
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


def class_count(seen: OutcomeCounts, name: str, known: Collection[str]) -> int:
    """How many predictions were of a class; those of none that was known before are of OTHER."""
    if name != OTHER:
        return seen.classes.get(name, 0)
    return sum(count for own, count in seen.classes.items() if own not in known or own == OTHER)


def no_evidence(policy: RolloutPolicy, classes: Sequence[str]) -> Evidence:
    """Before the first request.

    Args:
        classes: that stable predicted before the rollout began; none: the mix of classes is not judged.
    """
    named = dict.fromkeys([*classes, OTHER]) if classes else {}
    return Evidence(
        RatioProcess(),
        RatioProcess(),
        {name: RatioProcess(BOTH_WAYS) for name in named},
        RateProcess(policy.max_error_rate),
        RateProcess(policy.shadow_floor),
    )
