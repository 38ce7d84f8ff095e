"""Puts a rollout's journal into sentences: effects, verdicts and the recorded numbers behind them. Pure.

Invariants: every journal can be narrated, wherever it ends; a verdict is narrated with the judgement that was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tsctl.config.weights import percent
from tsctl.rollout.decide import events, interventions
from tsctl.rollout.decide.events import Effect, Entry, Event
from tsctl.rollout.decide.fold import after
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import Judgement, Verdict, requests_needed
from tsctl.rollout.decide.shadow import PairsCompared
from tsctl.rollout.decide.state import State
from tsctl.statistics.sequential import rejects
from tsctl.views.rollout.gaps import gaps
from tsctl.views.rollout.outlook import advice, in_progress, outcome, rule
from tsctl.views.rollout.wording import duration, e_text, setting_text, signal_name, threshold_text

_COMMANDS = {
    Command.PAUSE: "paused the rollout; requests still count, and no step passes",
    Command.RESUME: "resumed the rollout",
    Command.ABORT: "aborted the rollout",
    Command.PROMOTE: "promoted the canary and skipped the steps that were left",
    Command.ROLLBACK: "rolled back to stable",
}
#: An effect that is done; its detail follows.
_DONE = {
    Effect.VERIFY: "The archive of {canary} passed",
    Effect.REGISTER: "{canary} was registered without traffic:",
    Effect.VERIFY_GOLDEN: "{canary} passed",
    Effect.SET_WEIGHT: "{canary} gets {weight} of the requests",
    Effect.REVERT_WEIGHT: "{stable} gets all requests",
    Effect.SET_DEFAULT: "{canary} became the default version:",
    Effect.RESTORE_DEFAULT: "{stable} became the default version again:",
    Effect.RETIRE: "Old versions were retired:",
    Effect.EXTEND: "{canary} was registered where {stable} was added meanwhile:",
    Effect.COPY: "{canary} gets copies of",
    Effect.STOP_COPYING: "{canary} gets no copies any more",
}
_VERBS = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.UNDECIDED: "stayed undecided"}


@dataclass(frozen=True)
class Sentence:
    """One thing that happened."""

    seq: int  # of the entry that says so; so is `kind`
    at: float  # seconds since 1970
    kind: str
    text: str
    judgement: Judgement | None = None  # recorded with a verdict
    alpha: float | None = None  # of the policy at that time


@dataclass(frozen=True)
class Story:
    """A whole rollout in words."""

    title: str
    rule: str  # how it is judged
    told: tuple[Sentence, ...]  # in the order of the journal
    outcome: str  # how it ended or stands, and what that means
    advice: tuple[str, ...]  # what a person may do next, a sentence each
    gaps: tuple[str, ...] = ()  # what the signals could not compare, a sentence each


def story(entries: Iterable[Entry]) -> Story:
    """The rollout of these entries, of which there may be any number from the first one on."""
    narrator = Narrator()
    for entry in entries:
        narrator.narrate(entry, after(narrator.state, entry))
    return narrator.story


class Narrator:
    """Puts entries into words as they come.

    Attributes:
        state: after the last entry; None before the first.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self._sentences: list[Sentence] = []
        self._waits_for = ""
        self._waits_since = 0.0
        self._begun: dict[Effect, Sentence] = {}

    def narrate(self, entry: Entry, state: State) -> list[Sentence]:
        """Sentences for one entry; none for a tick, or for a wait that goes on.

        Args:
            state: after the entry.
        """
        before, self.state = self.state or state, state
        sentences = self._end_of_wait(entry)
        if not isinstance(entry.event, events.Waiting) or self._is_new_wait(entry.at, entry.event):
            sentences += _sentence(before, entry, state)
        match entry.event:
            case events.EffectBegan(effect=effect):
                self._begun[effect] = sentences[-1]
            case events.EffectDone(effect=effect) if effect in self._begun:
                self._sentences.remove(self._begun.pop(effect))
        self._sentences += sentences
        return sentences

    @property
    def story(self) -> Story:
        """All sentences so far; of an effect that began and was done, the second only."""
        state = self.state
        if state is None:
            return Story("a rollout that has not begun", "", (), "Nothing was written to its journal.", ())
        title = f"{state.model}: {state.canary} against {state.stable}"
        return Story(title, rule(state.policy), tuple(self._sentences), outcome(state), advice(state), gaps(state))

    def _is_new_wait(self, at: float, event: events.Waiting) -> bool:
        if event.why == self._waits_for:
            return False
        self._waits_for, self._waits_since = event.why, at
        return True

    def _end_of_wait(self, entry: Entry) -> list[Sentence]:
        if not self._waits_for or not _ends_wait(entry.event):
            return []
        self._waits_for = ""
        lasted = duration(entry.at - self._waits_since)
        return [Sentence(entry.seq, entry.at, events.Waiting.kind, f"The wait ended after {lasted}.")]


def _ends_wait(event: Event) -> bool:
    """Whether the event ends a wait; a tick without hold time adds counts, and the wait goes on."""
    match event:
        case events.Tick(held_s=held_s):
            return held_s > 0
        case (
            events.EffectDone()
            | PairsCompared()
            | events.StepBegan()
            | interventions.PolicyChanged()
            | events.VerdictReached()
            | events.Ended()
        ):
            return True
    return False


def _effect_done(event: events.EffectDone, state: State) -> str:
    detail = event.detail
    if detail.startswith(events.LEFT_UNDONE):
        return f"Gave up {in_progress(event.effect, state)}: {detail.removeprefix(events.LEFT_UNDONE)}."
    text = _DONE[event.effect].format(canary=state.canary, stable=state.stable, weight=percent(state.weight))
    return f"{text} {detail}." if detail else f"{text.removesuffix(':')}."


def _sentence(before: State, entry: Entry, state: State) -> list[Sentence]:
    text = _text(before, entry, state)
    is_judged = before.step >= 0 or before.is_in_shadow_stage
    judgement = entry.event.judgement if isinstance(entry.event, events.VerdictReached) and is_judged else None
    alpha = state.policy.alpha if judgement is not None else None
    return [Sentence(entry.seq, entry.at, entry.kind, text, judgement, alpha)] if text else []


def _text(before: State, entry: Entry, state: State) -> str:
    match entry.event:
        case events.Started() as event:
            return _started(event)
        case events.EffectBegan(effect=effect):
            return f"Began {in_progress(effect, state)}."
        case events.EffectDone() as event:
            return _effect_done(event, before)
        case events.StepBegan():
            slow = threshold_text(state.thresholds, state.is_text)
            step = f"Step {state.step + 1} of {len(state.weights)} began: {percent(state.weight)} of the requests"
            return "; ".join(filter(None, (step, _needs(state), slow))) + "."
        case events.SlowThresholdSet():
            return f"Stable has answered often enough: {threshold_text(state.thresholds, state.is_text)}."
        case events.Waiting(why=why):
            return f"The rollout waits: {why}."
        case events.VerdictReached() as event:
            return _verdict(before, event, state)
        case interventions.CommandReceived(command=command, by=by):
            return f"{by or 'Somebody'} {_COMMANDS[command]}."
        case interventions.PolicyChanged():
            return _policy(before, state)
        case interventions.StickyChanged(sticky=sticky):
            by = f"users by {sticky}" if sticky else "single requests"
            then = "the present step and its evidence begin anew" if before.step >= 0 else "no request is judged yet"
            return f"The route was edited and assigns {by} to versions: {then}."
        case interventions.NodesJoined(nodes=nodes):
            where = f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(nodes)}"
            return f"{state.stable} was added on {where}; {state.canary} is registered there before it is promoted."
        case interventions.Repaired() as event:
            return _repaired(event)
        case events.Ended(outcome=ended):
            return f"Ended: {ended}."
        case interventions.Reopened(by=by):
            return f"{by or 'Somebody'} rolled back the promotion."
    return ""


def _needs(state: State) -> str:
    """What the step needs to pass, if no request of the canary is an error; empty where a person promoted it."""
    if state.command is Command.PROMOTE:
        return ""
    needed = f"it needs {requests_needed(state.policy, state.evidence.capped, 0):,} canary requests or more"
    if labels := max(0, state.policy.min_labels - state.evidence.labels.canary):
        needed += f", {labels:,} labelled items"
    return f"{needed}, and {duration(state.policy.hold_s)}"


def _started(event: events.Started) -> str:
    steps = ", ".join(percent(weight) for weight in event.policy.weights)
    return (
        f"{event.by or 'Somebody'} started the rollout of {event.model} {event.canary} against {event.stable} on"
        f" {', '.join(event.nodes) or 'every node'}: steps of {steps}, each held {duration(event.policy.hold_s)} or"
        f" longer, under policy {event.policy_digest or event.policy.digest}."
    )


def _repaired(event: interventions.Repaired) -> str:
    if not event.by:
        return "Somebody removed or changed the journal; it was written again, and nothing is lost."
    lost = f"{event.lost} {'line' if event.lost == 1 else 'lines'}"
    return f"{event.by} repaired the journal: {lost} could not be read, so nothing is judged any more."


def _verdict(before: State, event: events.VerdictReached, state: State) -> str:
    if before.step < 0 and event.judgement is not None and before.is_in_shadow_stage:
        return f"The shadow stage {_VERBS[event.verdict]} before the first step: {event.why}."
    if before.step < 0:
        return f"The canary {_VERBS[event.verdict]} before the first step: {event.why}."
    evidence = _average(event.judgement, state) if event.judgement else "The journal records no evidence for it."
    return (
        f"Step {before.step + 1} {_VERBS[event.verdict]} after {duration(before.held_s)} and {before.step_requests:,}"
        f" canary requests (since the evidence began, {before.evidence.canary.requests:,} canary and"
        f" {before.evidence.stable.requests:,} stable requests): {event.why}. {evidence}"
    )


def _average(judgement: Judgement, state: State) -> str:
    limit = f"1 / alpha = {1 / state.policy.alpha:,.4g}"
    is_reached = rejects(judgement.log_e, state.policy.alpha)
    text = f"The average e-value is {e_text(judgement.log_e)}, {'at or above' if is_reached else 'below'} {limit}"
    if is_reached:
        signal = judgement.signal or state.signal
        return f"{text}; {signal_name(signal)} adds most to it."
    return f"{text}; request evidence did not decide." if state.is_failed else f"{text}."


def _policy(before: State, state: State) -> str:
    old, new = (each.policy.model_dump(mode="json") for each in (before, state))
    changes = ", ".join(
        f"{name} from {setting_text(old.get(name))} to {setting_text(new.get(name))}"
        for name in dict.fromkeys([*old, *new])  # settings that came later are absent where they have their default
        if old.get(name) != new.get(name)
    )
    effect = "the present step and its evidence begin anew" if before.step >= 0 else "it holds from the first step"
    return f"The policy was edited ({changes or 'no setting changed'}): {effect}."
