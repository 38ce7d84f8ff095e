"""What a rollout has seen so far: counts of both versions, and the e-processes that they feed. Pure.

Evidence is never stored, only the counts that came: folding the same windows in the same order gives the same evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tsctl.gateway.traffic import TOTAL
from tsctl.rollout.policy import RolloutPolicy
from tsctl.rollout.statistics import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of everything that had no name before the rollout began.
OTHER = "other"


@dataclass(frozen=True)
class Seen:
    """What the requests of one version came to."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions by class, where the handler tells one

    def __add__(self, other: Seen) -> Seen:
        names = self.classes.keys() | other.classes.keys()
        return Seen(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            {name: self.classes.get(name, 0) + other.classes.get(name, 0) for name in sorted(names)},
        )


@dataclass(frozen=True)
class Window:
    """Requests that were routed at one weight of the canary, since evidence was read last."""

    weight: int  # of the canary, in hundredths of a percent
    stable: Seen = Seen()
    canary: Seen = Seen()
    pairs: int = 0  # requests that stable and a shadow answered both
    disagreements: int = 0  # pairs whose answers differ

    def as_json(self) -> dict[str, Any]:
        """As the journal has it; what is zero is left out."""
        found: dict[str, Any] = {"weight": self.weight}
        for name, seen in (("stable", self.stable), ("canary", self.canary)):
            counts = {k: v for k, v in vars(seen).items() if v}
            if counts:
                found[name] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in counts.items()}
        return found | {k: getattr(self, k) for k in ("pairs", "disagreements") if getattr(self, k)}


def window_of(content: Mapping[str, Any]) -> Window:
    """What `as_json` wrote, read back."""
    return Window(
        content["weight"],
        Seen(**content.get("stable", {})),
        Seen(**content.get("canary", {})),
        content.get("pairs", 0),
        content.get("disagreements", 0),
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
    stable: Seen = Seen()
    canary: Seen = Seen()

    def seen(self, window: Window, is_settled: bool = True) -> Evidence:
        """After one more window.

        Args:
            is_settled: False leaves slow answers out: workers that just got more requests may still be warming.
        """
        after = replace(
            self,
            limit=self.limit.seen(window.canary.errors, window.canary.requests),
            disagreement=self.disagreement.seen(window.disagreements, window.pairs),
            stable=self.stable + window.stable,
            canary=self.canary + window.canary,
        )
        if not 0 < window.weight < TOTAL:  # there is nobody to compare with
            return after
        weight = window.weight / TOTAL
        named = {name: counts_of(window, name, self.mix) for name in self.mix}
        return replace(
            after,
            errors=self.errors.seen(window.canary.errors, window.stable.errors, weight),
            slow=self.slow.seen(window.canary.slow, window.stable.slow, weight) if is_settled else self.slow,
            mix={name: process.seen(*named[name], weight) for name, process in self.mix.items()},
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


def counts_of(window: Window, name: str, known: Mapping[str, object] | Sequence[str]) -> tuple[int, int]:
    """How many predictions of a class came from the canary, and how many from stable."""
    if name != OTHER:
        return window.canary.classes.get(name, 0), window.stable.classes.get(name, 0)
    return _unnamed(window.canary, known), _unnamed(window.stable, known)


def _unnamed(seen: Seen, known: Mapping[str, object] | Sequence[str]) -> int:
    return sum(count for name, count in seen.classes.items() if name not in known or name == OTHER)


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
