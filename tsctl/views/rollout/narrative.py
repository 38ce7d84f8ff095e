"""Tells a rollout's journal in plain sentences: what was done, what was decided and on which numbers. Pure.

Invariant: every journal can be told, wherever it ends; what is not over is told as begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import percent
from tsctl.rollout.decide.judge import Judgement, Verdict
from tsctl.rollout.decide.state import BEFORE, Outcome, State, after
from tsctl.rollout.decide.statistics import rejects
from tsctl.rollout.run.journal import ENDED, REOPENED, Entry
from tsctl.views.rollout.series import ends_wait
from tsctl.views.rollout.wording import duration, e_text, needed_text

#: What a person asked for, told of that person.
_ASKED = {
    "pause": "paused the rollout: requests are counted, and no step passes",
    "resume": "had the rollout go on",
    "abort": "stopped the rollout",
    "promote": "had the canary promoted without the steps that were left",
    "rollback": "had all requests go back to stable",
}


@dataclass(frozen=True)
class Told:
    """One thing that happened.

    Args:
        seq: of the entry that says so.
        at: seconds since 1970.
        kind: of the entry.
        judgement: what a verdict stands on, as it was at that time; None for everything else.
        alpha: of the policy at that time.
    """

    seq: int
    at: float
    kind: str
    text: str
    judgement: Judgement | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Story:
    """A whole rollout in words.

    Args:
        rule: how it is judged, with alpha and the share of each signal.
        told: in the order of the journal.
        outcome: what has come of it, and what that means.
        advice: what a person may do next, a sentence each.
    """

    title: str
    rule: str
    told: tuple[Told, ...]
    outcome: str
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def story(entries: Iterable[Entry]) -> Story:
    """The rollout of these entries, of which there may be any number from the first one on."""
    teller = Teller()
    for entry in entries:
        teller.tell(entry, after(teller.state, entry))
    return teller.story


class Teller:
    """Tells entries as they come, to whoever folds them.

    Attributes:
        state: after the entries that were told; None before the first.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self._lines: list[Told] = []
        self._waits: Entry | None = None
        self._begun: dict[str, int] = {}
        self._is_done: set[int] = set()

    def tell(self, entry: Entry, state: State) -> list[Told]:
        """What the entry says, and the state after it: nothing of a tick, or of a wait that goes on."""
        before, self.state = self.state or state, state
        lines = self._end_of_wait(entry)
        if entry.kind == "waits":
            if self._waits is None or self._waits.content["why"] != entry.content["why"]:
                self._waits = entry
                lines.append(_told(entry, f"It holds: {entry.content['why']}."))
        elif tell := _TOLD.get(entry.kind):
            lines.append(tell(before, entry, state))
        if entry.kind == "doing":
            self._begun[entry.content["what"]] = entry.seq
        elif entry.kind == "done" and entry.content["what"] in self._begun:
            self._is_done.add(self._begun.pop(entry.content["what"]))
        self._lines += lines
        return lines

    @property
    def story(self) -> Story:
        """All that was told; of what was begun and then done, the second only."""
        state = self.state
        if state is None:
            return Story("a rollout that has not begun", "", (), "Nothing was written to its journal.", ())
        title = f"{state.model}: {state.canary} against {state.stable}"
        told = tuple(line for line in self._lines if line.seq not in self._is_done)
        return Story(title, rule(state.policy), told, outcome(state), advice(state))

    def _end_of_wait(self, entry: Entry) -> list[Told]:
        if self._waits is None or not ends_wait(entry):
            return []
        lasted, self._waits = entry.at - self._waits.at, None
        return [Told(entry.seq, entry.at, "waits", f"What it held for is over, after {duration(lasted)}.")]


def rule(policy: RolloutPolicy) -> str:
    """How a canary is judged under this policy."""
    shares = ", ".join(f"{name} {share:.3g}" for name, share in policy.shares.items())
    return (
        "Each signal has an e-value, a running number that stays small while the canary is no worse, however often it"
        f" is read. Judged is their weighted average ({shares}): the canary fails when it reaches 1 / alpha ="
        f" {1 / policy.alpha:,.4g}, which happens to a canary that is no worse with a probability of at most alpha ="
        f" {policy.alpha:.3g}, ever. The signal limit holds the canary's own rate of errors against the policy's"
        f" maximum. A step passes after {duration(policy.hold_s)} and {policy.min_requests:,} requests of the canary,"
        f" once its rate of errors surely lies below {policy.max_error_rate:.2%}; until then it is undecided, and"
        f" holds. Intervals hold the true rate at all times at once, with a probability of at least"
        f" {1 - policy.alpha:.4g} each."
    )


def outcome(state: State) -> str:
    """What has come of the rollout by now, and what that means."""
    canary, stable = f"{state.model} {state.canary}", state.stable
    if state.outcome is Outcome.PROMOTED:
        return f"{canary} was promoted: it gets all requests, and is the default version on every node."
    if state.outcome is Outcome.ROLLED_BACK and state.is_failed:
        by = f", by {state.signal}" if state.signal else ""
        return f"{canary} was rolled back{by}: {state.why}. {_back(state)}"
    if state.outcome is Outcome.ROLLED_BACK:
        return f"{canary} was rolled back because {state.asked_by or 'a person'} asked for it. {_back(state)}"
    if state.outcome is Outcome.ABORTED:
        return f"The rollout of {canary} was stopped by {state.asked_by or 'a person'}. {_back(state)}"
    if state.is_failed:
        return f"{canary} has failed, and is on its way back to {stable}: {state.why}."
    if state.asked in ("abort", "rollback"):
        return f"The rollout of {canary} is being stopped; all requests go back to {stable}."
    return f"The rollout of {canary} has not ended: {progress(state)}."


def progress(state: State) -> str:
    """Where a rollout stands that has not ended, as the end of a sentence."""
    if state.waits_for:
        return f"it holds, {state.waits_for}"
    if state.doing:
        return f"it is {effect(state.doing, state)}"
    if state.step < 0:
        left = [what for what in BEFORE if what not in state.done]
        return f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} to come" if left else "a step is about to begin"
    judgement = state.judgement
    where = f"{where_of(state)}, held for {duration(state.held_s)}"
    paused = ", paused" if state.is_paused else ""
    return f"{where}{paused}, {judgement.verdict.value}: {reason(state, judgement)}"


def where_of(state: State) -> str:
    """The present step and its weight: `step 2 of 5, 5% of the requests`."""
    return f"step {state.step + 1} of {len(state.weights)}, {percent(state.weight)} of the requests"


def reason(state: State, judgement: Judgement) -> str:
    """Why the present step is judged as it is, with a number that a person can do something with."""
    if judgement.verdict is not Verdict.UNDECIDED:
        return judgement.why
    left = duration(state.policy.hold_s - state.held_s)
    return needed_text(judgement.needed) or f"it is to be held for {left} more"


def advice(state: State) -> tuple[str, ...]:
    """What a person may do next, a full sentence each."""
    model, canary, stable = state.model, state.canary, state.stable
    if state.outcome is Outcome.PROMOTED:
        if state.policy.keep:
            return (f"{stable} stays registered and warm for the way back: tsctl rollout rollback {model}",)
        return (
            f"The policy keeps no old version; {stable} comes back by a rollout: tsctl rollout start {model} {stable}",
        )
    if state.outcome is not None:
        lines = (
            f"{canary} stays registered without traffic, to be looked at: tsctl models describe {model} {canary}",
            f"It is removed by: tsctl models retire {model} {canary}",
        )
        return (
            *(lines if "register" in state.done else ()),
            f"Bytes that differ need a version of their own: tsctl rollout start {model} VERSION",
        )
    if state.is_failed or state.asked in ("abort", "rollback"):
        return (f"Where no tsctl runs it, this brings it to its end: tsctl rollout resume {model}",)
    return (
        f"It is watched by: tsctl rollout watch {model}",
        f"It is stopped by: tsctl rollout abort {model}",
        f"Where no tsctl runs it, it goes on by: tsctl rollout resume {model}",
    )


def effect(what: str, state: State) -> str:
    """What an effect does, as the rest of a sentence."""
    effects = {
        "verify": f"checking the archive of {state.canary}",
        "register": f"registering {state.canary} on every node, without traffic",
        "prove": f"asking {state.canary} for its golden answers on every node",
        "weigh": f"giving {state.canary} {percent(state.weight)} of the requests",
        "default": f"making {state.canary} the default version of the nodes",
        "undefault": f"making {state.stable} the default version of the nodes again",
        "retire": "retiring the old versions that the policy does not keep",
        "back": f"giving {state.stable} all requests",
    }
    return effects.get(what, what)


def _effect_done(what: str, state: State) -> str:
    effects = {
        "verify": f"The archive of {state.canary} was checked",
        "register": f"{state.canary} was registered on every node, without traffic",
        "prove": f"{state.canary} gave its golden answers on every node",
        "weigh": f"{state.canary} gets {percent(state.weight)} of the requests",
        "default": f"{state.canary} was made the default version of the nodes",
        "undefault": f"{state.stable} was made the default version of the nodes again",
        "retire": "Old versions that the policy does not keep were retired",
        "back": f"{state.stable} gets all requests",
    }
    return effects.get(what, f"Done: {what}")


def _back(state: State) -> str:
    never = " None had reached the canary." if state.step < 0 else ""
    return f"All requests go to {state.stable}.{never}"


def _told(entry: Entry, text: str) -> Told:
    return Told(entry.seq, entry.at, entry.kind, text)


def _started(_: State, entry: Entry, state: State) -> Told:
    told = entry.content
    nodes = ", ".join(map(str, told.get("nodes", ()))) or "every node"
    steps = ", ".join(percent(weight) for weight in state.weights)
    policy = told.get("policy_digest", state.policy.digest)
    text = (
        f"{told.get('by') or 'Somebody'} began the rollout of {state.model} {state.canary} against {state.stable} on"
        f" {nodes}: steps of {steps}, held {duration(state.policy.hold_s)} or longer each, under the policy {policy}."
    )
    return _told(entry, text)


def _doing(_: State, entry: Entry, state: State) -> Told:
    return _told(entry, f"Begun: {effect(entry.content['what'], state)}.")


def _done(before: State, entry: Entry, _: State) -> Told:
    detail = entry.content.get("detail")
    return _told(entry, f"{_effect_done(entry.content['what'], before)}{f': {detail}' if detail else ''}.")


def _step(_: State, entry: Entry, state: State) -> Told:
    slow = f"; an answer of {state.slow_ms:.4g} ms or more is slow" if state.slow_ms is not None else ""
    which = f"Step {state.step + 1} of {len(state.weights)} begins: {percent(state.weight)} of the requests{slow}."
    return _told(entry, which)


def _verdict(before: State, entry: Entry, state: State) -> Told:
    judgement = before.judgement
    where = f"step {before.step + 1}" if before.step >= 0 else "the canary, before the first step,"
    seen = (
        f"after {duration(before.held_s)} and {before.step_requests:,} requests of the canary in it; since the"
        f" evidence began, {before.evidence.canary.requests:,} of the canary and {before.evidence.stable.requests:,} of"
        " stable"
        if before.step >= 0
        else ""
    )
    subject = f"{where[0].upper()}{where[1:]} {_VERBS[Verdict(entry.content['verdict'])]} {seen}".strip()
    text = f"{subject}: {state.why}."
    if before.step < 0:
        return _told(entry, text)
    text += f" {_average(judgement, state)}"
    return replace(_told(entry, text), judgement=judgement, alpha=state.policy.alpha)


_VERBS = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.UNDECIDED: "stayed undecided"}


def _average(judgement: Judgement, state: State) -> str:
    limit = f"1 / alpha = {1 / state.policy.alpha:,.4g}"
    is_reached = rejects(judgement.log_e, state.policy.alpha)
    text = (
        f"The average of the e-values is {e_text(judgement.log_e)}, {'at or above' if is_reached else 'below'} {limit}"
    )
    if is_reached:
        return f"{text}, and {judgement.signal or state.signal} adds most to it."
    if state.is_failed:
        return f"{text}: it was not the evidence of requests that decided."
    return f"{text}."


def _asked(_: State, entry: Entry, state: State) -> Told:
    what = entry.content["what"]
    return _told(entry, f"{entry.content.get('by') or 'Somebody'} {_ASKED.get(what, f'asked: {what}')}.")


def _policy(before: State, entry: Entry, state: State) -> Told:
    old, new = (one.policy.model_dump(mode="json") for one in (before, state))
    changes = ", ".join(
        f"{name} from {_plain(old[name])} to {_plain(new[name])}" for name in new if old[name] != new[name]
    )
    begins = (
        "the present step begins anew, and its evidence with it" if before.step >= 0 else "it holds from the first step"
    )
    return _told(entry, f"The policy was edited ({changes or 'nothing that counts'}): {begins}.")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _slow(_: State, entry: Entry, state: State) -> Told:
    return _told(entry, f"Stable has enough answers to say what is slow: {state.slow_ms:.4g} ms or more.")


def _ended(_: State, entry: Entry, state: State) -> Told:
    return _told(entry, f"Ended: {state.outcome}.")


def _reopened(_: State, entry: Entry, state: State) -> Told:
    return _told(entry, f"{entry.content.get('by') or 'Somebody'} had the promotion taken back.")


_TOLD: dict[str, Callable[[State, Entry, State], Told]] = {
    "started": _started,
    "doing": _doing,
    "done": _done,
    "step": _step,
    "verdict": _verdict,
    "asked": _asked,
    "policy": _policy,
    "slow": _slow,
    ENDED: _ended,
    REOPENED: _reopened,
}
