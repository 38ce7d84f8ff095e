"""Takes a rollout from where its journal stands to its end, one action at a time; the only place that sleeps.

Invariant: what is decided is journaled before it is done, and every effect may be done twice. So whoever goes on after
a kill asks `next_action` and needs to know nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import percent
from tsctl.errors import AnalysisError, ConflictError, GatewayError, NodeError, TsctlError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.nodes.fan_out import is_unavailable
from tsctl.rollout.decide.actions import PREPARATION, Action, Next, next_action, passes
from tsctl.rollout.decide.capacity import utilisation
from tsctl.rollout.decide.events import (
    Command,
    CommandReceived,
    Effect,
    EffectBegan,
    EffectDone,
    Ended,
    Entry,
    Event,
    PolicyChanged,
    Reopened,
    SlowThresholdSet,
    StepBegan,
    Tick,
    VerdictReached,
    Waiting,
)
from tsctl.rollout.decide.evidence import Window
from tsctl.rollout.decide.judge import Judgement, Verdict, log_e_values
from tsctl.rollout.decide.memory import grown
from tsctl.rollout.decide.state import State, after, evidence_after, fold
from tsctl.rollout.evidence.counts import Cursor, EvidenceQuery
from tsctl.rollout.run.journal import Journal

#: A tick without requests is journaled this often, and what is waited for told as often.
QUIET_S = 5.0
#: How long a canary that was ready may refuse its first requests, before that is a fail.
READY_S = 30.0
#: How long what is left to do once the weights are final is tried; `tsctl apply` catches up on it.
LATE_S = 60.0
#: Requests of one version without which no quantile of its answers is fixed.
LEAST_ANSWERS = 100


class Away(NodeError):
    """Something that the rollout needs does not answer now, or cannot do it now, and may later; nothing is decided."""


class World(Protocol):
    """What a rollout acts on and reads; every effect may be done twice.

    An effect raises Away where something does not answer, and another TsctlError where the canary cannot do it.
    """

    def verify(self, state: State) -> EffectDone: ...
    def register(self, state: State) -> EffectDone: ...
    def prove(self, state: State) -> EffectDone: ...
    def default(self, state: State) -> EffectDone: ...
    def undefault(self, state: State) -> EffectDone: ...
    def retire(self, state: State) -> EffectDone: ...

    def weigh(self, state: State, weight: int) -> None:
        """The canary has this weight, in hundredths of a percent, and stable all the rest."""

    def slow_ms(self, state: State) -> float | None:
        """What is slow from now on, by stable's recent answers; None where there are too few of them."""

    def mark(self, query: EvidenceQuery) -> Cursor:
        """Where reading begins, for what is slow by this query."""

    def read(self, query: EvidenceQuery, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
        """What came since the cursor, and what changed of it."""

    def rate(self, state: State) -> float:
        """Requests a second that the route gets now, of all versions."""

    def capacity(self, state: State) -> float | None:
        """Requests a second that the canary's workers can answer now, above 0; None where that was not measured."""

    def memory(self, state: State) -> Mapping[str, int]:
        """Bytes of each worker of the canary, where that can be seen."""

    def trouble(self, state: State) -> str:
        """Why nothing may go forward now; empty where it may."""

    def policy(self, state: State) -> RolloutPolicy:
        """What deployment.yaml says now."""

    def asked(self) -> list[tuple[Command, str]]:
        """What people asked for since `answered`, and who."""

    def answered(self) -> None:
        """What was asked for is in the journal."""


@dataclass
class Runner:
    """One rollout that goes on.

    Args:
        journal: with its start in it.
        note: told what happens, in a few words; called at every tick.
        heard: told every new entry, with the state after it.
        clock: monotonic seconds.
    """

    journal: Journal
    world: World
    note: Callable[[str], None]
    heard: Callable[[Entry, State], None] = lambda entry, state: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    state: State = field(init=False)
    _seen_at: float | None = None  # when evidence was read last
    _held_s: float = 0.0  # that no entry has yet
    _waits_since: float | None = None
    _refused_since: float | None = None  # by what answers
    _told_at: float = 0.0

    def __post_init__(self) -> None:
        self.state = fold(self.journal.entries)

    def run(self) -> State:
        """The state at the end, or at a hold that a person must end; what cannot be written now is tried again."""
        while True:
            try:
                if not self.advance():
                    return self.state
            except (AnalysisError, OSError) as error:  # a full disk: who ends here leaves the canary with its weight
                self.note(f"waits: {' '.join(str(error).split())}")
                self._seen_at = None
                self.sleep(self.state.policy.tick_s)

    def advance(self) -> bool:
        """One action more; False where there is none, or a person must say how to go on."""
        self._listen()
        todo = next_action(self.state)
        match todo.action:
            case Action.NOTHING:
                return False
            case Action.APPLY if todo.effect is not None:
                self._do(todo.effect)
            case Action.BEGIN_STEP:
                self._attempt(lambda: self._begin(todo))
            case Action.SET_WEIGHT:
                self._attempt(self._weigh)
                if self.state.in_force and not self.state.is_weighed and not self.state.is_failed:
                    self._attempt(self._glance)
                return self.state.is_failed or self._overdue()
            case Action.WATCH:
                return self._watch()
            case Action.REVERT_WEIGHT:
                self._attempt(self._back)
            case Action.END if todo.outcome is not None:
                self._tell(Ended(todo.outcome, self._why_it_ended(), self.state.judgement))
        return True

    def command(self, command: Command, by: str) -> None:
        """Journal a person's command."""
        self._tell(CommandReceived(command, by))

    def reopen(self, by: str) -> None:
        """Journal that a person wants a promotion rolled back."""
        self._tell(Reopened(by))

    # ---- what others say -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for command, by in self.world.asked():
            self.command(command, by)
        self.world.answered()
        policy = self.world.policy(self.state)
        has_steps = (
            self.state.outcome is None and not self.state.is_failed and Effect.SET_DEFAULT not in self.state.done
        )
        if has_steps and policy.digest != self.state.policy.digest:
            self._tell(PolicyChanged(policy, policy.digest))

    # ---- effects -------------------------------------------------------------------------------------------------

    def _do(self, effect: Effect) -> None:
        self._announce(effect)
        try:
            done = self._apply(effect)
        except TsctlError as error:
            if effect in PREPARATION and not _may_end(error):
                self._fail(effect, _why(error))
            elif self._wait(_why(error)) >= LATE_S and effect not in PREPARATION:
                self._tell(EffectDone(effect, f"left undone: {_why(error)}"))
        else:
            self._tell(done)

    def _apply(self, effect: Effect) -> EffectDone:
        match effect:
            case Effect.VERIFY:
                return self.world.verify(self.state)
            case Effect.REGISTER:
                return self.world.register(self.state)
            case Effect.VERIFY_GOLDEN:
                return self.world.prove(self.state)
            case Effect.SET_DEFAULT:
                return self.world.default(self.state)
            case Effect.RESTORE_DEFAULT:
                return self.world.undefault(self.state)
            case Effect.RETIRE:
                return self.world.retire(self.state)
            case Effect.SET_WEIGHT | Effect.REVERT_WEIGHT:
                raise ValueError(f"{effect} is an action of its own. This is a bug.")

    def _begin(self, todo: Next) -> None:
        """What is slow in this step is fixed before its first request."""
        weight = self.state.weights[todo.step]
        slow_ms = self.world.slow_ms(self.state)
        cursor = self.world.mark(self._query(slow_ms))
        self._tell(StepBegan(todo.step, weight, slow_ms, cursor))

    def _weigh(self) -> None:
        state = self.state
        capacity = self.world.capacity(state) if state.command is not Command.PROMOTE else None
        if capacity is not None:
            used = utilisation(self.world.rate(state), state.weight, capacity)
            if used > state.policy.max_utilisation:
                raise Away(
                    f"{percent(state.weight)} of the requests would take {used:.0%} of the canary's workers, and the"
                    f" policy allows {state.policy.max_utilisation:.0%}; 'tsctl models scale' gives it more"
                )
        self._announce(Effect.SET_WEIGHT, state.weight)
        try:
            self.world.weigh(state, state.weight)
        except GatewayError as error:
            self._refused(error)
            return
        self._tell(EffectDone(Effect.SET_WEIGHT, weight=state.weight))
        self._seen_at = self.clock()

    def _refused(self, error: GatewayError) -> None:
        """The canary fails where gateway and nodes answer and it does not, for READY_S."""
        away = "" if isinstance(error, NotAnswering) else self.world.trouble(self.state)
        if isinstance(error, NotAnswering) or away:
            self._refused_since = None
            raise error if not away else Away(away)
        now = self.clock()
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= READY_S:
            self._fail("ready", f"it does not take requests: {_why(error)}", self.state.judgement)
        else:
            self._wait(_why(error))

    def _back(self) -> None:
        self._announce(Effect.REVERT_WEIGHT)
        try:
            self.world.weigh(self.state, 0)
        except TsctlError as error:  # whatever it is: there is no other way to go
            self._wait(_why(error))
        else:
            self._tell(EffectDone(Effect.REVERT_WEIGHT))

    def _why_it_ended(self) -> str:
        if self.state.command and not self.state.is_failed:
            return f"{self.state.commanded_by} asked for it"
        return self.state.why

    # ---- watching ------------------------------------------------------------------------------------------------

    def _watch(self) -> bool:
        self.sleep(self.state.policy.tick_s)
        try:
            windows, cursor = self.world.read(self._query(self.state.slow_ms), self.state.cursor)
        except TsctlError as error:
            return self._blind(error)
        if windows or cursor or self._held_s >= QUIET_S or self._may_pass():
            held_s, self._held_s = self._held_s, 0.0
            self._tick(held_s, windows, cursor)
        if self.state.judgement.verdict is Verdict.FAIL:  # at once: a node that is silent is waited for below
            return self._judge({})
        try:
            trouble = self.world.trouble(self.state)
            memory = self.world.memory(self.state)
        except TsctlError as error:
            return self._blind(error)
        now = self.clock()
        self._held_s += now - self._seen_at if self._seen_at is not None and not trouble else 0.0
        self._seen_at = now
        if trouble:
            self._wait(trouble)
        else:
            self._waits_since = None
        return self._judge(memory)

    def _glance(self) -> None:
        """While a step waits for its weight, the canary has the one before, and fails by what comes of it."""
        windows, cursor = self.world.read(self._query(self.state.slow_ms), self.state.cursor)
        if windows or cursor:
            self._tick(0.0, windows, cursor)
        judgement = self.state.judgement
        if judgement.verdict is Verdict.FAIL:
            self._fail(judgement.signal, judgement.why, judgement)

    def _tick(self, held_s: float, windows: Sequence[Window], cursor: Mapping[str, int]) -> None:
        log_e = log_e_values(self.state.policy, evidence_after(self.state, windows))
        self._tell(Tick(round(held_s, 3), tuple(windows), cursor, log_e))

    def _blind(self, error: TsctlError) -> bool:
        """What cannot be seen is waited for, and is no hold time."""
        self._seen_at = None
        self._wait(_why(error))
        return self._overdue()

    def _judge(self, memory: Mapping[str, int]) -> bool:
        state, judgement = self.state, self.state.judgement
        told = percent(state.weight)
        paused = f"paused, until 'tsctl rollout resume {state.model}'" if state.is_paused else ""
        self.note(f"{state.canary} at {told}: {state.waits_for or paused or judgement.why}")
        if judgement.verdict is Verdict.FAIL:
            self._fail(judgement.signal, judgement.why, judgement)
        elif too_much := grown(state.warm_bytes, memory, state.policy.max_memory_growth):
            self._fail("memory", too_much, judgement)
        elif passes(state, judgement):
            self._tell(VerdictReached(Verdict.PASS, judgement.why, judgement=judgement))
        else:
            if state.slow_ms is None:
                self._attempt(self._fix_slow)
            return self._overdue()
        return True

    def _fix_slow(self) -> None:
        """Stable had too few answers before the step; once it has enough, what comes after is judged by them."""
        if self.state.evidence.stable.requests < LEAST_ANSWERS:
            return
        slow_ms = self.world.slow_ms(self.state)
        if slow_ms is not None:
            self._tell(SlowThresholdSet(slow_ms, self.world.mark(self._query(slow_ms))))

    def _overdue(self) -> bool:
        """A step that is undecided for too long ends as the policy says; False where a person must say how."""
        if not self.state.is_overdue or self.state.is_paused:
            return True
        why = f"undecided for {self.state.policy.max_hold_s:g} s: {self.state.waits_for or self.state.judgement.why}"
        if self.state.policy.at_max_hold == "rollback":
            self._fail("max_hold_s", why, self.state.judgement)
            return True
        self.command(Command.PAUSE, "max_hold_s of the policy")
        return False

    def _may_pass(self) -> bool:
        return self.state.held_s + self._held_s >= self.state.policy.hold_s

    # ---- telling -------------------------------------------------------------------------------------------------

    def _attempt(self, act: Callable[[], None]) -> None:
        """Act; what does not answer is waited for."""
        try:
            act()
        except TsctlError as error:
            if not _may_end(error):
                raise
            self._wait(_why(error))

    def _announce(self, effect: Effect, weight: int | None = None) -> None:
        """Journal an effect before it is tried; once, however often it is tried."""
        if self.state.doing is not effect:
            self._tell(EffectBegan(effect, weight))
        self.note(effect)

    def _fail(self, signal: str, why: str, judgement: Judgement | None = None) -> None:
        self._tell(VerdictReached(Verdict.FAIL, why, signal, judgement))

    def _wait(self, why: str) -> float:
        """It is told, and time passes; seconds since it began to wait."""
        now = self.clock()
        if self._waits_since is None:
            self._waits_since = self._told_at = now
        if why != self.state.waits_for or now - self._told_at >= QUIET_S:
            self._tell(Waiting(why, round(now - self._told_at, 3)))
            self._told_at = now
        self.note(f"waits: {why}")
        self.sleep(self.state.policy.tick_s)
        return self.clock() - self._waits_since

    def _tell(self, event: Event) -> None:
        if isinstance(event, EffectDone | VerdictReached | StepBegan):
            self._waits_since = self._refused_since = None
        entry = self.journal.append(event)
        self.state = after(self.state, entry)
        self.heard(entry, self.state)

    def _query(self, slow_ms: float | None) -> EvidenceQuery:
        state = self.state
        return EvidenceQuery(state.model, state.stable, state.canary, state.policy.count_4xx, slow_ms)


def _may_end(error: TsctlError) -> bool:
    """Whether the same may succeed another time, without anybody mending the canary."""
    return isinstance(error, Away | NotAnswering | AnalysisError | ConflictError) or is_unavailable(error)


def _why(error: TsctlError) -> str:
    return " ".join(error.message.split())
