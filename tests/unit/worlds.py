"""A world that rollouts can act on without nodes or a gateway: what was done to it stays, whoever did it.

Its contract, that every effect may be done twice and that weights are read back as they were set, is held against the
real one by tests/live/test_rollout.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.errors import TsctlError
from tsctl.rollout.decide.events import Command, Effect, EffectDone
from tsctl.rollout.decide.evidence import OutcomeCounts, Window
from tsctl.rollout.decide.state import State
from tsctl.rollout.evidence.counts import Cursor, EvidenceQuery
from tsctl.rollout.run.runner import Away

POLICY = RolloutPolicy(
    steps=(5, 50, 100), hold_s=10, max_hold_s=600, min_requests=100, max_error_rate=0.2, settle_s=0, tick_s=1, keep=1
)


class Killed(BaseException):
    """The process is gone, in the middle of what it did."""


@dataclass
class Outside:
    """What outlives the process that runs a rollout.

    Args:
        rate: requests that came in a second, of all versions.
        errors: of the canary's and of stable's requests, how many of a hundred fail.
    """

    rate: int = 200
    errors: tuple[int, int] = (0, 0)
    weights: dict[str, int] = field(default_factory=lambda: {"1.0": TOTAL})
    default: str = "1.0"
    registered: set[str] = field(default_factory=lambda: {"1.0"})
    policy: RolloutPolicy = POLICY
    asks: list[tuple[Command, str]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=lambda: {"1 on a": 400 << 20})
    trouble: str = ""
    refuses: dict[str, TsctlError | OSError] = field(default_factory=dict)  # by effect
    away: set[str] = field(default_factory=set)  # effects, and "read"
    now: float = 1000.0
    did: list[tuple[str, Any]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)  # requests and errors, by version and weight
    slow: float | None = 20.0
    workers: int = 1  # of the canary, READY

    def sleep(self, seconds: float) -> None:
        """Time passes, and requests come."""
        self.now += seconds
        for version, weight in self.weights.items():
            if weight:
                count = round(self.rate * seconds * weight / TOTAL)
                share = self.errors[0 if version == "2.0" else 1]
                for kind, more in (("requests", count), ("errors", count * share // 100)):
                    key = f"{version}|{weight}|{kind}"
                    self.counted[key] = self.counted.get(key, 0) + more


@dataclass
class World:
    """What one process sees of the outside.

    Args:
        strike: called with a word at each point where a kill may happen.
    """

    outside: Outside
    strike: Callable[[str], None] = lambda point: None

    def _do(self, what: Effect, effect: Callable[[], Any], value: Any = None) -> EffectDone:
        self.strike(f"before {what}")
        if what in self.outside.away:
            raise Away(f"{what} is away")
        if what in self.outside.refuses:
            raise self.outside.refuses[what]
        effect()
        self.outside.did.append((what, value))
        self.strike(f"after {what}")
        return EffectDone(what, what)

    def verify(self, state: State) -> EffectDone:
        return self._do(Effect.VERIFY, lambda: None)

    def register(self, state: State) -> EffectDone:
        return self._do(Effect.REGISTER, lambda: self.outside.registered.add(state.canary))

    def prove(self, state: State) -> EffectDone:
        done = self._do(Effect.VERIFY_GOLDEN, lambda: None)
        return replace(done, warm_bytes=dict(self.outside.memory), requests_per_s=2000.0)

    def default(self, state: State) -> EffectDone:
        return self._do(Effect.SET_DEFAULT, lambda: setattr(self.outside, "default", state.canary))

    def undefault(self, state: State) -> EffectDone:
        return self._do(Effect.RESTORE_DEFAULT, lambda: setattr(self.outside, "default", state.stable))

    def retire(self, state: State) -> EffectDone:
        return self._do(Effect.RETIRE, lambda: None)

    def weigh(self, state: State, weight: int) -> None:
        new = {state.stable: TOTAL - weight, state.canary: weight}
        self._do(Effect.SET_WEIGHT, lambda: setattr(self.outside, "weights", new), weight)

    def slow_ms(self, state: State) -> float | None:
        if "slow" in self.outside.refuses:
            raise self.outside.refuses["slow"]
        return self.outside.slow

    def mark(self, query: EvidenceQuery) -> Cursor:
        return {}

    def read(self, query: EvidenceQuery, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
        if "read" in self.outside.away:
            raise Away("counts are away")
        changed = {key: value for key, value in self.outside.counted.items() if value != cursor.get(key, 0)}
        found: dict[int, dict[str, dict[str, int]]] = {}
        for key, value in changed.items():
            version, own, kind = key.split("|")
            weight = int(own) if version == query.canary else TOTAL - int(own)
            found.setdefault(weight, {}).setdefault(version, {})[kind] = value - cursor.get(key, 0)
        windows = [
            Window(weight, OutcomeCounts(**at.get(query.stable, {})), OutcomeCounts(**at.get(query.canary, {})))  # type: ignore[arg-type]
            for weight, at in sorted(found.items())
        ]
        return windows, changed

    def rate(self, state: State) -> float:
        return self.outside.rate

    def capacity(self, state: State) -> float | None:
        return None if state.requests_per_s is None else state.requests_per_s * self.outside.workers

    def memory(self, state: State) -> Mapping[str, int]:
        return dict(self.outside.memory)

    def trouble(self, state: State) -> str:
        return self.outside.trouble

    def policy(self, state: State) -> RolloutPolicy:
        return self.outside.policy

    def asked(self) -> list[tuple[Command, str]]:
        return list(self.outside.asks)

    def answered(self) -> None:
        self.outside.asks.clear()
