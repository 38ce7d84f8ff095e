"""Runs a rollout from its last journal entry to its end, one action per call. The only module that sleeps.

Invariant: a decision is journaled before it is acted on, and every effect may be applied twice. So after a kill the
journal alone says how to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tsctl.config.weights import percent
from tsctl.control.place import PlaceUnusable
from tsctl.errors import AnalysisError, GatewayError, TsctlError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.rollout.decide import actions, events, interventions
from tsctl.rollout.decide.events import (
    LEFT_UNDONE,
    Effect,
    EffectBegan,
    EffectDone,
    Entry,
    Event,
    Outcome,
    VerdictReached,
)
from tsctl.rollout.decide.fold import after, evidence_after, fold
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import Judgement, Verdict, log_e_values
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.memory import memory_fault
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import Window
from tsctl.rollout.evidence.totals import LEAST_ANSWERS
from tsctl.rollout.run.interfaces import (
    Effects,
    EvidenceReader,
    Health,
    Operator,
    PairReader,
    TemporarilyUnavailable,
    may_succeed_later,
)
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.node_trouble import NodeTrouble, require_capacity

#: A tick without requests, and a wait that goes on, are journaled this often.
QUIET_S = 5.0
#: A canary that was ready may refuse its first requests for this long, before that is a fail.
READY_S = 30.0
#: Entries that say what was seen, or what a person wants.
_SEEN = (events.Tick, events.Waiting, interventions.CommandReceived)
#: An effect that may be left undone is tried for this long.
LATE_S = 60.0
#: A route without a request for this long is told to who watches.
NO_TRAFFIC_S = 30.0


@dataclass
class Runner:
    """One rollout in progress.

    Args:
        journal: with its start in it.
        note: gets the present action in a few words, at every tick.
        on_entry: gets every new entry, with the state after it.
        timeout_s: a rollout that has not ended by then is rolled back; None: it may take as long as the policy says.
        clock: monotonic seconds.
    """

    journal: Journal
    effects: Effects
    evidence: EvidenceReader
    health: Health
    operator: Operator
    pairs: PairReader
    note: Callable[[str], None]
    on_entry: Callable[[Entry, State], None] = lambda entry, state: None
    timeout_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    state: State = field(init=False)
    _watched_at: float | None = None  # when evidence was read last, with nothing unavailable
    _held_s: float = 0.0  # hold time that is not in the journal yet
    _waits_since: float | None = None
    _refused_since: float | None = None  # by a canary while gateway and nodes answer
    _gone_since: float | None = None
    _wait_journaled_at: float = 0.0
    _began_at: float = field(init=False)
    _nodes: NodeTrouble = field(init=False)
    _asked_at: float | None = None  # when the route had a request last, or began to be watched

    def __post_init__(self) -> None:
        self.state = fold(self.journal.entries)
        self._began_at = self.clock()
        self._nodes = NodeTrouble(self.health, self.clock, self.clock() if self.state.is_disturbed else None)

    def run(self) -> State:
        """Advance to the end, or to a hold that a person must end; a file that cannot be written is tried again."""
        while True:
            try:
                if not self.advance():
                    return self.state
            # a full disk, or a shared place that does not answer: an exit here would leave the canary its weight
            except (AnalysisError, PlaceUnusable, OSError) as error:
                self.note(f"waits: {' '.join(str(error).split())}")
                self._watched_at = None
                self.sleep(self.state.policy.tick_s)

    def advance(self) -> bool:
        """Take one action; False where there is none, or a person must decide."""
        self._obey()
        self._fail_if_gone()
        match actions.next_action(self.state):
            case actions.BeginStep(index=index):
                self._unless_unavailable(lambda: self._begin_step(index))
            case Effect.SET_WEIGHT:
                self._unless_unavailable(self._set_weight)
                if self.state.in_force and not self.state.is_weighed and not self.state.is_failed:
                    self._unless_unavailable(self._judge_while_waiting)
                return self.state.is_failed or self._end_if_overdue()
            case actions.Watch():
                return self._watch()
            case actions.WatchShadow():
                return self._watch_shadow()
            case Effect() as effect:
                self._try(effect)
            case Outcome() as outcome:
                self.record(events.Ended(outcome, self._why_it_ended(), self.state.judgement))
            case None:
                return False
        return True

    def _obey(self) -> None:
        """Journal new commands, an edited policy, and another way in which the route assigns versions."""
        for command, by in self.operator.commands():
            self.record(interventions.CommandReceived(command, by))
        self.operator.acknowledge()
        policy, state = self.operator.policy(self.state), self.state
        is_judged = state.outcome is None and not state.is_failed and Effect.SET_DEFAULT not in state.done
        if is_judged and self._is_overtime and state.command is not Command.ABORT:
            self.record(interventions.CommandReceived(Command.ABORT, f"the timeout of {self.timeout_s:g} s"))
        if is_judged and policy.digest != state.policy.digest:
            self.record(interventions.PolicyChanged(policy, policy.digest))
        sticky = self.operator.sticky(self.state)
        if is_judged and sticky != state.sticky:
            self._unless_unavailable(
                lambda: self.record(interventions.StickyChanged(sticky, self.evidence.mark(self.state)))
            )

    @property
    def _is_overtime(self) -> bool:
        return self.timeout_s is not None and self.clock() - self._began_at >= self.timeout_s

    def _fail_if_gone(self) -> None:
        """Fail a canary that was unregistered, or whose workers are lost: it would be waited for in vain."""
        state = self.state
        is_expected = Effect.REGISTER in state.done and state.outcome is None and not state.is_going_back
        grace_s = self.health.grace_s(state) if is_expected else None
        if grace_s is None:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = self.clock()
        elif self.clock() - self._gone_since >= grace_s:
            self._fail("gone", f"{self.health.trouble(state)}, for {grace_s:g} s", state.judgement)

    def _try(self, effect: Effect) -> None:
        """Apply an effect, or wait; an error fails the canary before the first step, and is passed over at the end."""
        self._announce(effect)
        self.journal.confirm()  # an effect is announced once, and tried often
        try:
            done = self.effects.apply(effect, self.state)
        except TsctlError as error:
            if effect in actions.PREPARATION and not may_succeed_later(error):
                self._fail(effect, error.summary)
            elif self._wait(error.summary) >= LATE_S and effect in actions.OPTIONAL:
                self.record(EffectDone(effect, f"{LEFT_UNDONE}{error.summary}"))
        else:
            self.record(done)

    def _begin_step(self, index: int) -> None:
        """Journal the step and its thresholds, before its first request."""
        found, cursor = self.evidence.thresholds(self.state)
        weight = self.state.weights[index]
        self.record(events.StepBegan(index, weight, found.slow_ms, cursor, found.token_ms, found.longest_s))

    def _set_weight(self) -> None:
        if self.state.command is not Command.PROMOTE:
            require_capacity(self.state, self.health, self.evidence)
        self._announce(Effect.SET_WEIGHT, self.state.weight)
        self.journal.confirm()
        try:
            done = self.effects.apply(Effect.SET_WEIGHT, self.state)
        except GatewayError as error:
            self._refused(error)
        else:
            self.record(done)
            self._watched_at = self.clock()

    def _refused(self, error: GatewayError) -> None:
        """Fail a canary that has refused requests for READY_S, while gateway and nodes answer."""
        trouble = "" if isinstance(error, NotAnswering) else self._trouble()
        if isinstance(error, NotAnswering) or trouble:
            self._refused_since = None
            raise TemporarilyUnavailable(trouble) if trouble else error
        now = self.clock()
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= READY_S:
            self._fail("ready", f"it does not take requests: {error.summary}", self.state.judgement)
        else:
            self._wait(error.summary)

    def _why_it_ended(self) -> str:
        is_commanded = self.state.command is not None and not self.state.is_failed
        return f"{self.state.commanded_by} asked for it" if is_commanded else self.state.why

    def _watch(self) -> bool:
        self.sleep(self.state.policy.tick_s)
        try:
            windows, cursor = self.evidence.read(self.state)
            labels = self.evidence.labels(self.state)
        except TsctlError as error:
            return self._wait_unseen(error)
        if self._asked_at is None or any(window.stable.requests or window.canary.requests for window in windows):
            self._asked_at = self.clock()
        set_aside = self.state.evidence.set_aside
        may_pass = self.state.held_s + self._held_s >= self.state.policy.hold_s
        if windows or cursor or labels or may_pass or self._held_s >= QUIET_S:
            held_s, self._held_s = self._held_s, 0.0
            self._tick(held_s, windows, cursor, labels)
        if self.state.judgement.verdict is Verdict.FAIL:  # at once: the checks below may wait for a node
            return self._judge({})
        try:
            trouble, memory = self._trouble(), self.health.memory(self.state)
        except TsctlError as error:
            return self._wait_unseen(error)
        if joined := self.health.joined(self.state):
            self.record(interventions.NodesJoined(joined))
        if not trouble and self.state.evidence.set_aside > set_aside:
            trouble = "requests are unanswered, because a node or stable as well is unavailable"
        now = self.clock()
        self._held_s += now - self._watched_at if self._watched_at is not None and not trouble else 0.0
        self._watched_at = now
        if trouble:
            self._wait(trouble)
        else:
            self._waits_since = None
        return self._judge(memory)

    def _watch_shadow(self) -> bool:
        """Compare the copies' answers that came; the stage passes or fails, or goes on."""
        self.sleep(self.state.policy.tick_s)
        try:
            compared = self.pairs.read(self.state)
            trouble = self._trouble()
        except TsctlError as error:
            return self._wait_unseen(error)
        if compared is not None:
            self.record(compared)
        state, judgement = self.state, self.state.judgement
        paused = f"paused, until 'tsctl rollout resume {state.model}'" if state.is_paused else ""
        self.note(f"{state.canary} as a shadow: {trouble or paused or judgement.why}")
        if judgement.verdict is Verdict.FAIL:
            self._fail(judgement.signal, judgement.why, judgement)
        elif trouble:
            self._wait(trouble)
            return self._end_if_overdue()
        elif judgement.verdict is Verdict.PASS and not state.is_paused:
            self.record(VerdictReached(Verdict.PASS, judgement.why, judgement=judgement))
        else:
            return self._end_if_overdue()
        return True

    def _judge_while_waiting(self) -> None:
        """While a step waits for its weight, the canary keeps the one before, and may fail at it."""
        windows, cursor = self.evidence.read(self.state)
        labels = self.evidence.labels(self.state)
        if windows or cursor or labels:
            self._tick(0.0, windows, cursor, labels)
        judgement = self.state.judgement
        if judgement.verdict is Verdict.FAIL:
            self._fail(judgement.signal, judgement.why, judgement)

    def _tick(
        self, held_s: float, windows: Sequence[Window], cursor: Mapping[str, int], labels: LabelCounts | None
    ) -> None:
        is_disturbed = self._nodes.are_disturbed(self.state, windows)
        log_e = log_e_values(self.state.policy, evidence_after(self.state, windows, is_disturbed, labels))
        self.record(events.Tick(round(held_s, 3), tuple(windows), cursor, log_e, is_disturbed, labels))

    def _wait_unseen(self, error: TsctlError) -> bool:
        """Wait without hold time while evidence or nodes are unavailable."""
        self._watched_at = None
        self._wait(error.summary)
        return self._end_if_overdue()

    def _trouble(self) -> str:
        return self.journal.problem or self._nodes.trouble(self.state) or self.operator.policy_error

    def _judge(self, memory: Mapping[str, int]) -> bool:
        state, judgement = self.state, self.state.judgement
        paused = f"paused, until 'tsctl rollout resume {state.model}'" if state.is_paused else ""
        quiet = "" if self._has_traffic else f"; the route has had no request for {NO_TRAFFIC_S:g} s"
        self.note(f"{state.canary} at {percent(state.weight)}: {state.waits_for or paused or judgement.why}{quiet}")
        if judgement.verdict is Verdict.FAIL:
            self._fail(judgement.signal, judgement.why, judgement)
        elif fault := memory_fault(state.warm_bytes, memory, state.policy.max_memory_growth):
            self._fail("memory", fault, judgement)
        elif judgement.verdict is Verdict.PASS and not state.is_paused and not state.waits_for:
            self.record(VerdictReached(Verdict.PASS, judgement.why, judgement=judgement))
        else:
            if state.thresholds.slow_ms is None and state.thresholds.token_ms is None:
                self._unless_unavailable(self._set_thresholds)
            return self._end_if_overdue()
        return True

    @property
    def _has_traffic(self) -> bool:
        return self._asked_at is None or self.clock() - self._asked_at < NO_TRAFFIC_S

    def _set_thresholds(self) -> None:
        """Set the thresholds late, where stable had too few answers before the step; later answers are judged by it."""
        if self.state.evidence.stable.requests < LEAST_ANSWERS:
            return
        found, cursor = self.evidence.thresholds(self.state)
        if found.slow_ms is not None or found.token_ms is not None:
            self.record(events.SlowThresholdSet(found.slow_ms, cursor, found.token_ms, found.longest_s))

    def _end_if_overdue(self) -> bool:
        """End a step that is undecided for too long as the policy says; False where a person must decide."""
        state = self.state
        if state.waited_s < state.policy.max_hold_s or state.is_paused:
            return True
        if state.policy.at_max_hold == "rollback":
            why = f"undecided for {state.policy.max_hold_s:g} s: {state.waits_for or state.judgement.why}"
            self._fail("max_hold_s", why, state.judgement)
            return True
        self.record(interventions.CommandReceived(Command.PAUSE, "max_hold_s of the policy"))
        return False

    def _unless_unavailable(self, act: Callable[[], None]) -> None:
        """Act, or wait where something is unavailable."""
        try:
            act()
        except TsctlError as error:
            if not may_succeed_later(error):
                raise
            self._wait(error.summary)

    def _announce(self, effect: Effect, weight: int | None = None) -> None:
        """Journal an effect before its first try."""
        if self.state.doing is not effect:
            self.record(EffectBegan(effect, weight))
        self.note(effect)

    def _fail(self, signal: str, why: str, judgement: Judgement | None = None) -> None:
        self.record(VerdictReached(Verdict.FAIL, why, signal, judgement))

    def _wait(self, why: str) -> float:
        """Journal the wait and sleep for a tick; seconds since the wait began."""
        now = self.clock()
        if self._waits_since is None:
            self._waits_since = self._wait_journaled_at = now
        if why != self.state.waits_for or now - self._wait_journaled_at >= QUIET_S:
            self.record(events.Waiting(why, round(now - self._wait_journaled_at, 3)))
            self._wait_journaled_at = now
        self.note(f"waits: {why}")
        self.sleep(self.state.policy.tick_s)
        return self.clock() - self._waits_since

    def record(self, event: Event) -> None:
        """Journal an event, and fold it into the state.

        On a full disk, what is seen and the way back need not be in the journal first: a kill before that leaves a
        journal that leads to the same. The end waits for the disk.
        """
        if isinstance(event, EffectDone | VerdictReached | events.StepBegan):
            self._waits_since = self._refused_since = None
        known = len(self.journal.entries)
        is_back = isinstance(event, EffectBegan | EffectDone) and self.state.is_going_back
        is_fail = isinstance(event, VerdictReached) and event.verdict is Verdict.FAIL
        try:
            self.journal.append(event, may_be_late=is_back or is_fail or isinstance(event, _SEEN))
        finally:  # an entry of an earlier try may have been found there instead
            for entry in self.journal.entries[known:]:
                self.state = after(self.state, entry)
                self.on_entry(entry, self.state)
