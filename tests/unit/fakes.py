"""Fakes on which rollouts act without nodes or a gateway. A `FakeSite` outlives the process that acts.

Their contract, that every effect may be applied twice and that weights are read back as they were set, is held against
the live effects by tests/live/test_rollout.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.errors import TsctlError
from tsctl.rollout.decide.events import Cursor, Effect, EffectDone
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.labels import NO_LABELS, LabelCounts
from tsctl.rollout.decide.shadow import FloorCounts, PairCounts, PairsCompared
from tsctl.rollout.decide.state import SHADOW_CURSOR, State
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds, Window
from tsctl.rollout.evidence.pairs import READ_S
from tsctl.rollout.run.interfaces import TemporarilyUnavailable

POLICY = RolloutPolicy(
    steps=(5, 50, 100), hold_s=10, max_hold_s=600, min_requests=100, max_error_rate=0.2, settle_s=0, tick_s=1, keep=1
)


class Killed(BaseException):
    """The process is gone, in the middle of what it did."""


@dataclass
class FakeSite:
    """What outlives the process that runs a rollout.

    Args:
        rate: requests per second, of all versions.
        errors: of the canary's and of stable's requests, how many of a hundred fail; `unanswered`: reach no worker.
        refuses: the error of an effect, or of "slow", the slow threshold.
        unavailable: effects, and "read".
        counted: requests and errors, by version and weight.
        workers: of the canary, READY.
        differ: of a hundred answers to copies, how many of the canary's, and of stable's second ones, differ.
        lost: of a hundred copies, how many have no answer.
        labels: that people have added.
    """

    rate: int = 200
    errors: tuple[int, int] = (0, 0)
    unanswered: tuple[int, int] = (0, 0)
    weights: dict[str, int] = field(default_factory=lambda: {"1.0": TOTAL})
    default: str = "1.0"
    registered: set[str] = field(default_factory=lambda: {"1.0"})
    policy: RolloutPolicy = POLICY
    commands: list[tuple[Command, str]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=lambda: {"1 on a": 400 << 20})
    trouble: str = ""
    grace_s: float | None = None
    sticky: str = ""
    joined: tuple[str, ...] = ()
    refuses: dict[str, TsctlError | OSError] = field(default_factory=dict)
    unavailable: set[str] = field(default_factory=set)
    now: float = 1000.0
    did: list[tuple[str, Any]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    slow: float | None = 20.0
    workers: int = 1
    copies: int | None = None  # share of the requests, in hundredths of a percent; None: none
    differ: tuple[int, int] = (0, 0)
    lost: int = 0
    labels: LabelCounts = NO_LABELS

    def sleep(self, seconds: float) -> None:
        """Time passes, and requests come."""
        self.now += seconds
        for version, weight in self.weights.items():
            if weight:
                count = round(self.rate * seconds * weight / TOTAL)
                side = 0 if version == "2.0" else 1
                errors, unanswered = (count * share[side] // 100 for share in (self.errors, self.unanswered))
                for kind, more in (("requests", count), ("errors", errors), ("unanswered", unanswered)):
                    key = f"{version}|{weight}|{kind}"
                    self.counted[key] = self.counted.get(key, 0) + more


#: Effects that change the gateway alone.
AT_GATEWAY = (Effect.SET_WEIGHT, Effect.REVERT_WEIGHT, Effect.COPY, Effect.STOP_COPYING, Effect.RETIRE)


@dataclass
class FakeEffects:
    """Effects on a site.

    Args:
        strike: called with a word at each point where a kill may happen.
        guard: of the gateway, which asks it before it changes anything: see tests/unit/test_control_begin.py.
    """

    site: FakeSite
    strike: Callable[[str], None] = lambda point: None
    guard: Callable[[], None] = lambda: None

    def apply(self, effect: Effect, state: State) -> EffectDone:
        self.strike(f"before {effect}")
        if effect in AT_GATEWAY:
            self.guard()
        if effect in self.site.unavailable:
            raise TemporarilyUnavailable(f"{effect} is unavailable")
        if effect in self.site.refuses:
            raise self.site.refuses[effect]
        weight = {Effect.SET_WEIGHT: state.weight, Effect.REVERT_WEIGHT: 0}.get(effect)
        if effect is Effect.REGISTER:
            self.site.registered.add(state.canary)
        elif effect is Effect.SET_DEFAULT:
            self.site.default = state.canary
        elif effect is Effect.RESTORE_DEFAULT:
            self.site.default = state.stable
        elif effect is Effect.COPY:
            self.site.copies = state.policy.shadow.share if state.policy.shadow else None
        elif effect is Effect.STOP_COPYING:
            self.site.copies = None
        elif weight is not None:
            self.site.weights = {state.stable: TOTAL - weight, state.canary: weight}
        self.site.did.append((effect, weight))
        self.strike(f"after {effect}")
        done = EffectDone(effect, effect)
        if effect is Effect.EXTEND:
            return replace(done, new=state.joined)
        if effect is Effect.VERIFY_GOLDEN:
            return replace(done, warm_bytes=dict(self.site.memory), requests_per_s=2000.0)
        return done


@dataclass
class FakeEvidence:
    """Counts of a site's requests."""

    site: FakeSite

    def thresholds(self, state: State) -> tuple[Thresholds, Cursor]:
        if "slow" in self.site.refuses:
            raise self.site.refuses["slow"]
        return Thresholds(self.site.slow), {}

    def read(self, state: State) -> tuple[list[Window], Cursor]:
        if "read" in self.site.unavailable:
            raise TemporarilyUnavailable("counts are unavailable")
        changed = {key: value for key, value in self.site.counted.items() if value != state.cursor.get(key, 0)}
        counts: dict[int, dict[str, dict[str, Any]]] = {}
        for key, value in changed.items():
            version, own, kind = key.split("|")
            weight = int(own) if version == state.canary else TOTAL - int(own)
            counts.setdefault(weight, {}).setdefault(version, {})[kind] = value - state.cursor.get(key, 0)
        windows = [
            Window(weight, OutcomeCounts(**of.get(state.stable, {})), OutcomeCounts(**of.get(state.canary, {})))
            for weight, of in sorted(counts.items())
        ]
        return windows, changed

    def labels(self, state: State) -> LabelCounts | None:
        found = self.site.labels
        return found if "labels" in state.policy.signals and found != state.evidence.labels else None

    def mark(self, state: State) -> Cursor:
        return dict(self.site.counted)

    def request_rate(self, state: State) -> float:
        return self.site.rate


@dataclass
class FakePairs:
    """Answers to a site's copies, READ_S after the other."""

    site: FakeSite

    def read(self, state: State) -> PairsCompared | None:
        if "pairs" in self.site.unavailable:
            raise TemporarilyUnavailable("records are unavailable")
        since_us, until_us = state.cursor[SHADOW_CURSOR], round(self.site.now * 1e6)
        if until_us - since_us < READ_S * 1e6 or self.site.copies is None:
            return None
        copied = round(self.site.rate * self.site.copies / TOTAL * (until_us - since_us) / 1e6)
        lost = copied * self.site.lost // 100
        pairs = copied - lost
        shadow, stable = (pairs * share // 100 for share in self.site.differ)
        floor = FloorCounts(shadow, stable, pairs - shadow - stable, stable)
        counts = PairCounts(pairs, shadow, {"ALONE": floor, "BATCH": floor}, {"NO_SHADOW": lost} if lost else {})
        return PairsCompared(counts, {SHADOW_CURSOR: until_us}, (until_us - since_us) / 1e6, ("id-1",))


@dataclass
class FakeHealth:
    """Capacity, memory and trouble of a site."""

    site: FakeSite

    def capacity(self, state: State) -> float | None:
        return None if state.requests_per_s is None else state.requests_per_s * self.site.workers

    def memory(self, state: State) -> Mapping[str, int]:
        return dict(self.site.memory)

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        return self.site.trouble

    def grace_s(self, state: State) -> float | None:
        return self.site.grace_s

    def joined(self, state: State) -> tuple[str, ...]:
        return tuple(name for name in self.site.joined if name not in (*state.nodes, *state.joined))


@dataclass
class FakeOperator:
    """Commands to a site, and its policy."""

    site: FakeSite
    policy_error: str = ""

    def commands(self) -> list[tuple[Command, str]]:
        return list(self.site.commands)

    def acknowledge(self) -> None:
        self.site.commands.clear()

    def sticky(self, state: State) -> str:
        return self.site.sticky

    def policy(self, state: State) -> RolloutPolicy:
        return self.site.policy
