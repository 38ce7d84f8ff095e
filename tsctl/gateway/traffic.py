"""Weights and shadows of routes, and the order of versions that keeps users where they are. Pure.

Invariant: the weights of a route are integers of at least 0 that sum to TOTAL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tsctl.config.weights import TOTAL, percent

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
#: The track of a version that a client's path names.
PINNED = "pinned"
#: What chose the version of a request: the route's weights, a tester's header, or the path.
BY_WEIGHT, BY_HEADER, BY_PATH = "weight", "header", "path"


@dataclass(frozen=True)
class Shadow:
    """The version that gets copies of a share of a route's requests; its answers are dropped."""

    version: str
    share: int  # of TOTAL


@dataclass(frozen=True)
class Traffic:
    """The weights and the shadow of one model's route."""

    model: str
    weights: Mapping[str, int]  # by version; stable last
    canary: str | None = None  # the version on trial; None where none is
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        total = sum(self.weights.values())
        if total != TOTAL or min(self.weights.values()) < 0:
            raise ValueError(f"the weights of {self.model} sum to {total}, not to {TOTAL}")
        if self.canary is not None and (self.canary not in self.weights or self.canary == self.stable):
            raise ValueError(f"{self.model} {self.canary} cannot be the canary of {', '.join(self.weights)}")

    @property
    def stable(self) -> str:
        """The version of every user who is not moved to another one."""
        return list(self.weights)[-1]

    def track(self, version: str) -> str:
        """The track of a version; empty where it has none."""
        return STABLE if version == self.stable else CANARY if version == self.canary else ""

    @property
    def versions(self) -> list[str]:
        """Every version that a request may reach by this route, the shadow's among them."""
        shadow = [self.shadow.version] if self.shadow and self.shadow.version not in self.weights else []
        return [*self.weights, *shadow]

    @property
    def shares(self) -> dict[str, int]:
        """The weights above 0."""
        return {version: weight for version, weight in self.weights.items() if weight}

    def weighted(self, weights: Mapping[str, int]) -> Traffic:
        """The same route with these weights; a version of the route that is not named stays, with 0.

        The stable version stays stable until another one gets everything. Envoy lays the versions along the interval
        of a user's hash in the order of the weights: a version before stable that grows at the cost of stable gains
        users and loses none. So the order may change only where one version has all users anyway.
        """
        new = [version for version in weights if version not in self.weights]
        all_ = {version: weights.get(version, 0) for version in [*self.weights, *new]}
        stable = next((version for version, weight in all_.items() if weight == TOTAL), self.stable)
        others = {version: weight for version, weight in all_.items() if version != stable}
        tried = [version for version, weight in others.items() if weight] or [v for v in new if v in others]
        canary = tried[-1] if tried else self.canary if self.canary in others else None
        is_stable = self.shadow is not None and self.shadow.version == stable  # it would get each request twice
        shadow = None if is_stable else self.shadow
        return replace(self, weights={**others, stable: all_[stable]}, canary=canary, shadow=shadow)

    def without(self, version: str) -> Traffic:
        """The same route without a version; raises ValueError where the version has a weight."""
        if self.weights.get(version):
            raise ValueError(f"{self.model} {version} has a weight")
        shadow = self.shadow if self.shadow and self.shadow.version != version else None
        canary = None if self.canary == version else self.canary
        return replace(
            self, weights={v: w for v, w in self.weights.items() if v != version}, canary=canary, shadow=shadow
        )


def weights_text(weights: Mapping[str, int]) -> str:
    """`1.0 95%, 2.0 5%`, the largest first."""
    ranked = sorted(weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{version} {percent(weight)}" for version, weight in ranked)


def only(model: str, version: str) -> Traffic:
    """A route whose requests all reach one version."""
    return Traffic(model, {version: TOTAL})
