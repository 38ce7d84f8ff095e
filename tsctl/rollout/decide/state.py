"""The state of a rollout, folded from its journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide import events, interventions
from tsctl.rollout.decide.events import Cursor, Effect, Entry, Outcome
from tsctl.rollout.decide.evidence import Evidence, no_evidence
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import NOT_RECORDED, Judgement, Verdict, judge
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.shadow import PairsCompared, added, judge_shadow, unpaired_after
from tsctl.rollout.decide.windows import UNKNOWN, Thresholds, Window
from tsctl.shadow.disagreement import Disagreement

#: Where comparing pairs goes on: microseconds since 1970.
SHADOW_CURSOR = "shadow|us"


@dataclass(frozen=True)
class State:
    """One rollout.

    Args:
        weights: of the canary, of the steps that are left under the present policy.
        step: the place of the present step in `weights`; -1 before the first one.
        weight: of the canary as the journal has decided it, in hundredths of a percent; in force once `is_weighed`.
        in_force: the last weight that is known to have been in force.
        had_weight: whether a weight was ever tried, so that requests may have reached the canary.
        held_s: how long the present step was watched; time without evidence does not count.
        waited_s: since the present step began to be watched, with the time for which it had to wait.
        thresholds: from which times on an answer is slow; `before`: earlier ones, each with the cursor up to which
            evidence was read with them.
        is_text: the model's answers are texts of a language model.
        sticky: what tells users on the route; empty: single requests are assigned.
        since: where evidence of the present assignment begins.
        warm_bytes: memory of each worker of the canary when it was warm.
        requests_per_s: capacity of all workers of the canary together, as measured before the first step.
        measured_workers: READY workers at that measurement; 0 where the journal has no number.
        verdict: on the present step; a fail is a verdict on the rollout.
        waits_for: why it waits; empty where it does not.
        nodes: on which the canary is registered; `joined` since then, and not covered yet.
        elsewhere: that serve stable, where those are others; empty: stable is on `nodes`.
        is_disturbed: as of the last tick.
        doing: an effect that was begun, and is not known to be done.
        command: abort, rollback or promote, by a person.
        recorded: the judgement in the journal, of the last verdict or of the end.
        is_copied: whether the canary may get copies of requests.
        is_compared: whether the shadow stage has passed.
        pairs: of answers that were compared; `unpaired`: lost answers by reason.
    """

    id: str
    model: str
    canary: str
    stable: str
    archive: str
    policy: RolloutPolicy
    classes: tuple[str, ...]
    evidence: Evidence
    weights: tuple[int, ...]
    started_at: float
    nodes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    done: frozenset[Effect] = frozenset()
    step: int = -1
    weight: int = 0
    in_force: int = 0
    is_weighed: bool = False
    had_weight: bool = False
    held_s: float = 0.0
    waited_s: float = 0.0
    step_requests: int = 0
    thresholds: Thresholds = UNKNOWN
    before: tuple[tuple[Cursor, Thresholds], ...] = ()
    is_text: bool = False
    sticky: str = ""
    since: Cursor = field(default_factory=dict)
    cursor: Cursor = field(default_factory=dict)
    warm_bytes: Mapping[str, int] = field(default_factory=dict)
    requests_per_s: float | None = None
    measured_workers: int = 0
    verdict: Verdict | None = None
    why: str = ""
    signal: str = ""
    is_paused: bool = False
    is_disturbed: bool = False
    waits_for: str = ""
    doing: Effect | None = None
    command: Command | None = None
    commanded_by: str = ""
    recorded: Judgement | None = None
    is_copied: bool = False
    is_compared: bool = False
    pairs: Disagreement = field(default_factory=Disagreement)
    unpaired: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    ended_at: float | None = None

    @property
    def stable_nodes(self) -> tuple[str, ...]:
        """The nodes that serve stable."""
        return self.elsewhere or self.nodes

    @property
    def settle_s(self) -> float:
        """Hold time of a step after which times and texts count; half of the hold time where answers take longer."""
        return max(self.policy.settle_s, min(self.thresholds.longest_s or 0.0, self.policy.hold_s / 2))

    @property
    def is_failed(self) -> bool:
        return self.verdict is Verdict.FAIL

    @property
    def is_going_back(self) -> bool:
        """Whether stable gets all requests again, by a verdict or a command."""
        return self.is_failed or self.command in (Command.ABORT, Command.ROLLBACK)

    @property
    def is_rejected(self) -> bool:
        """Whether the canary failed before its first request."""
        return self.is_failed and not self.had_weight

    @property
    def is_in_shadow_stage(self) -> bool:
        """Whether the canary is judged by its answers to copies, before the first step."""
        is_before = self.step < 0 and not self.had_weight and not self.is_compared
        return self.policy.shadow is not None and is_before and self.command is not Command.PROMOTE

    @property
    def judgement(self) -> Judgement:
        """The judgement on the present step; once the rollout has ended, the recorded one, never a new one."""
        if self.outcome is not None:
            return self.recorded or NOT_RECORDED
        if self.is_in_shadow_stage and Effect.COPY in self.done:
            return judge_shadow(self.policy, self.pairs, self.unpaired)
        return judge(self.policy, self.evidence, self.held_s, self.step_requests)


def fold(entries: Sequence[Entry]) -> State:
    """The state after these entries; the first one must be the start.

    Raises:
        ValueError: it is not.
    """
    state = _started(start_of(entries), entries[0].at)
    for entry in entries[1:]:
        state = after(state, entry)
    return state


def start_of(entries: Sequence[Entry]) -> events.Started:
    """The event that begins a journal; raises ValueError where that is not the start."""
    event = entries[0].event if entries else None
    if not isinstance(event, events.Started):
        raise ValueError("a rollout's journal begins with its start")
    return event


def after(state: State | None, entry: Entry) -> State:
    """The state after one more entry."""
    if state is None:
        return _started(start_of([entry]), entry.at)
    match entry.event:
        case events.EffectBegan() as event:
            had_weight = state.had_weight or event.effect is Effect.SET_WEIGHT
            is_copied = state.is_copied or event.effect is Effect.COPY
            return replace(state, doing=event.effect, had_weight=had_weight, is_copied=is_copied)
        case events.EffectDone() as event:
            return _done(state, event, entry.at)
        case PairsCompared() as event:
            return _compared(state, event)
        case events.StepBegan() as event:
            return _step(state, event)
        case events.Tick() as event:
            return _tick(state, event)
        case events.SlowThresholdSet() as event:
            return _measured(state, event)
        case events.Waiting() as event:
            return replace(state, waits_for=event.why, waited_s=state.waited_s + event.waited_s)
        case events.VerdictReached() as event:
            is_compared = state.is_compared or (state.is_in_shadow_stage and event.verdict is Verdict.PASS)
            judged = replace(state, verdict=event.verdict, why=event.why, signal=event.signal)
            return replace(judged, recorded=event.judgement, is_compared=is_compared)
        case interventions.CommandReceived() as event:
            return _command(state, event)
        case interventions.PolicyChanged() as event:
            return _policy(state, event.policy)
        case interventions.StickyChanged(sticky=sticky, cursor=cursor):
            anew = replace(_policy(state, state.policy), sticky=sticky, since=cursor, before=())
            return replace(anew, cursor={**state.cursor, **cursor})
        case events.Ended() as event:
            recorded = event.judgement or state.recorded
            ended = replace(state, outcome=event.outcome, why=event.why, ended_at=entry.at, waits_for="")
            return replace(ended, recorded=recorded)
        case interventions.Reopened() as event:  # a promotion is rolled back
            command = replace(state, command=Command.ROLLBACK, commanded_by=event.by)
            return replace(command, outcome=None, ended_at=None)
        case interventions.NodesJoined(nodes=nodes):
            return replace(state, joined=(*state.joined, *nodes))
        case interventions.Repaired(lost=lost) if lost and state.outcome is None:
            return _incomplete(state)
    return state


def _started(event: events.Started, at: float) -> State:
    return State(
        id=event.id,
        model=event.model,
        canary=event.canary,
        stable=event.stable,
        archive=event.archive,
        policy=event.policy,
        classes=event.classes,
        evidence=no_evidence(event.policy, event.classes, event.is_text),
        weights=event.policy.weights,
        started_at=at,
        nodes=event.nodes,
        elsewhere=event.stable_nodes or (),
        is_text=event.is_text,
        sticky=event.sticky,
        since=event.cursor,
        cursor=event.cursor,
    )


def _done(state: State, event: events.EffectDone, at: float) -> State:
    state = replace(state, doing=None, waits_for="")
    if event.effect is Effect.COPY:  # only what was copied under this stage is compared
        state = replace(state, cursor={**state.cursor, SHADOW_CURSOR: round(at * 1e6)}, waited_s=0.0)
    if event.effect is Effect.STOP_COPYING:
        return replace(state, is_copied=False)
    if event.effect is Effect.SET_WEIGHT:
        # paused before it had its weight, the step was watched at the one before: that is no hold of this one
        return replace(state, is_weighed=True, in_force=state.weight, held_s=0.0, step_requests=0)
    if event.effect is Effect.REVERT_WEIGHT:
        return replace(state, weight=0, in_force=0)
    if event.effect is Effect.EXTEND:
        state = replace(state, nodes=(*state.nodes, *(event.new or ())), joined=())
    return replace(
        state,
        done=state.done | {event.effect},
        warm_bytes=state.warm_bytes if event.warm_bytes is None else event.warm_bytes,
        requests_per_s=state.requests_per_s if event.requests_per_s is None else event.requests_per_s,
        measured_workers=state.measured_workers if event.workers is None else event.workers,
    )


def _step(state: State, event: events.StepBegan) -> State:
    began = replace(_anew(state), step=event.index, weight=event.weight, why="", waits_for="")
    return _measured(began, event)


def _measured(state: State, event: events.StepBegan | events.SlowThresholdSet) -> State:
    """Evidence is read with other thresholds from here on."""
    return replace(
        state,
        thresholds=Thresholds(event.slow_ms, event.token_ms, event.longest_s),
        before=(*state.before, (state.cursor, state.thresholds)),
        cursor={**state.cursor, **event.cursor},
    )


def _anew(state: State) -> State:
    """A step that has not been watched yet."""
    return replace(state, is_weighed=False, held_s=0.0, waited_s=0.0, step_requests=0, verdict=None, recorded=None)


def _tick(state: State, event: events.Tick) -> State:
    evidence = evidence_after(state, event.windows, event.is_disturbed, event.labels)
    at_weight = [window for window in event.windows if window.weight == state.weight]  # others: of a gateway cut off
    of_step = evidence_after(state, at_weight, event.is_disturbed)
    return replace(
        state,
        evidence=evidence,
        step_requests=state.step_requests + of_step.canary.requests - state.evidence.canary.requests,
        held_s=state.held_s + event.held_s,
        waited_s=state.waited_s + event.held_s,
        cursor={**state.cursor, **event.cursor},
        waits_for="" if event.held_s else state.waits_for,
        is_disturbed=event.is_disturbed,
    )


def evidence_after(
    state: State, windows: Iterable[Window], is_disturbed: bool = False, labels: LabelCounts | None = None
) -> Evidence:
    """The evidence once these windows are added; times, and texts, count once the step has settled.

    Args:
        labels: of all labelled items; None: as before.
    """
    evidence, is_settled = state.evidence, state.held_s >= state.settle_s
    if labels is not None:
        evidence = replace(evidence, labels=labels)
    for window in windows:
        evidence = evidence.seen(window, is_settled, is_disturbed)
    return evidence


def _compared(state: State, event: PairsCompared) -> State:
    return replace(
        state,
        pairs=added(state.pairs, event.counts),
        unpaired=unpaired_after(state.unpaired, event.counts),
        cursor={**state.cursor, **event.cursor},
        waited_s=state.waited_s + event.waited_s,
        waits_for="",
    )


def _command(state: State, event: interventions.CommandReceived) -> State:
    """The last command holds; after abort or rollback, nothing else counts."""
    if state.command in (Command.ABORT, Command.ROLLBACK):
        return state
    if event.command is Command.PAUSE:
        return replace(state, is_paused=True)
    if event.command is Command.RESUME:
        return replace(state, is_paused=False, waited_s=0.0)
    return replace(state, command=event.command, commanded_by=event.by, is_paused=False)


def _incomplete(state: State) -> State:
    """Entries are lost, so that nothing can be judged: the way back begins with the weight and the default."""
    done = state.done - {Effect.RESTORE_DEFAULT} | {Effect.SET_DEFAULT}
    undone = replace(state, weight=TOTAL, done=done, is_copied=state.policy.shadow is not None)
    return replace(undone, command=Command.ABORT, commanded_by="the repair of its journal")


def _policy(state: State, policy: RolloutPolicy) -> State:
    """The step begins anew at its weight, under the new policy; later steps are those that are heavier."""
    # a step that never had its weight is left out
    weight = state.weight if state.doing is Effect.SET_WEIGHT else state.in_force
    now = (weight,) if weight else ()
    return replace(
        _anew(state),
        policy=policy,
        weights=(*now, *(later for later in policy.weights if later > weight)),
        step=-1,
        evidence=no_evidence(policy, state.classes, state.is_text),
        pairs=Disagreement(),
        unpaired={},
        done=state.done - {Effect.COPY},  # its share of the requests may be another one
    )
