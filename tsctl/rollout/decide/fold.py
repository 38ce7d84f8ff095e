"""From a journal's entries to the state of its rollout. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tsctl.rollout.decide import events
from tsctl.rollout.decide.events import Effect, Entry
from tsctl.rollout.decide.evidence import Evidence, no_evidence
from tsctl.rollout.decide.intervened import intervened
from tsctl.rollout.decide.judge import Verdict
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.shadow import PairsCompared, added, unpaired_after
from tsctl.rollout.decide.state import SHADOW_CURSOR, State
from tsctl.rollout.decide.windows import Thresholds, Window


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
        case events.Ended() as event:
            recorded = event.judgement or state.recorded
            ended = replace(state, outcome=event.outcome, why=event.why, ended_at=entry.at, waits_for="")
            return replace(ended, recorded=recorded)
    return intervened(state, entry.event)


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
    began = replace(state.unwatched, step=event.index, weight=event.weight, why="", waits_for="")
    return _measured(began, event)


def _measured(state: State, event: events.StepBegan | events.SlowThresholdSet) -> State:
    """Evidence is read with other thresholds from here on."""
    return replace(
        state,
        thresholds=Thresholds(event.slow_ms, event.token_ms, event.longest_s),
        before=(*state.before, (state.cursor, state.thresholds)),
        cursor={**state.cursor, **event.cursor},
    )


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
