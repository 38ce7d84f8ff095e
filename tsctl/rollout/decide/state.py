"""Where a rollout stands, folded from its journal, and what comes next. Pure.

Invariants: a weight above the present step is never an action; a step that has passed is never begun again; after a
fail, or once a person wants it, the only way is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.evidence import Evidence, no_evidence, window_of
from tsctl.rollout.decide.judge import Held, Judgement, Verdict, judge
from tsctl.rollout.run.journal import ENDED, REOPENED, STARTED, Entry

#: What is done before the first request reaches the canary, in this order.
BEFORE = ("verify", "register", "prove")
#: What is done after the last step has passed, in this order.
AFTER = ("default", "retire")
#: What is done where a promotion is taken back.
UNDEFAULT = "undefault"


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"


class Action(StrEnum):
    """What comes next."""

    DO = "do"  # one of BEFORE or AFTER
    BEGIN = "begin"  # the next step: fix what is slow, and journal it
    WEIGH = "weigh"  # the present step's weight
    WATCH = "watch"
    BACK = "back"  # all traffic to stable
    END = "end"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Next:
    """An action, and what it is done to."""

    action: Action
    what: str = ""
    step: int = -1


@dataclass(frozen=True)
class State:
    """One rollout.

    Args:
        weights: of the canary, of the steps that are left under the present policy.
        step: the place of the present step in `weights`; -1 before the first one.
        weight: of the canary as the journal has decided it, in hundredths of a percent; in force once `is_weighed`.
        in_force: the last weight that is known to have been in force.
        held_s: how long the present step was watched; what nobody watched does not count.
        waited_s: since the present step began to be watched, with the time when it had to wait for something.
        slow_ms: an answer that takes as long is slow; None while that is not known.
        cursor: where reading evidence goes on, as the source has it.
        warm_bytes: memory of each worker of the canary when it was warm.
        requests_per_s: that the canary's workers can answer, all together, as measured before the first step.
        measured_workers: how many were READY then; 0 where the journal does not say.
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
    done: frozenset[str] = frozenset()
    step: int = -1
    weight: int = 0
    in_force: int = 0
    is_weighed: bool = False
    held_s: float = 0.0
    waited_s: float = 0.0
    step_requests: int = 0
    slow_ms: float | None = None
    cursor: Mapping[str, int] = field(default_factory=dict)
    warm_bytes: Mapping[str, int] = field(default_factory=dict)
    requests_per_s: float | None = None
    measured_workers: int = 0
    verdict: Verdict | None = None  # of the present step; a fail is of the rollout
    why: str = ""
    signal: str = ""
    is_paused: bool = False
    waits_for: str = ""  # what it holds for; empty where nothing
    doing: str = ""  # what was begun, and is not known to be done
    asked: str = ""  # abort, rollback or promote, by a person
    asked_by: str = ""
    outcome: Outcome | None = None
    ended_at: float | None = None
    entries: int = 0  # that it was folded from

    @property
    def is_failed(self) -> bool:
        return self.verdict is Verdict.FAIL

    @property
    def judgement(self) -> Judgement:
        """What the present step has come to by now."""
        return judge(self.policy, self.evidence, Held(self.held_s, self.step_requests))


def fold(entries: Iterable[Entry]) -> State:
    """The state after these entries; the first one must be the start.

    Raises:
        ValueError: it is not.
    """
    state: State | None = None
    for entry in entries:
        state = after(state, entry)
    if state is None:
        raise ValueError("a rollout's journal begins with its start")
    return state


def after(state: State | None, entry: Entry) -> State:
    """The state after one more entry; kinds that are unknown here change nothing."""
    if state is None:
        if entry.kind != STARTED:
            raise ValueError(f"a rollout's journal begins with its start, and not with {entry.kind!r}")
        return _started(entry)
    apply = FOLDS.get(entry.kind)
    return replace(apply(state, entry) if apply else state, entries=state.entries + 1)


def _started(entry: Entry) -> State:
    told = entry.content
    policy = RolloutPolicy.model_validate(told["policy"])
    classes = tuple(told.get("classes", ()))
    return State(
        id=told["id"],
        model=told["model"],
        canary=told["canary"],
        stable=told["stable"],
        archive=told["archive"],
        policy=policy,
        classes=classes,
        evidence=no_evidence(policy, classes),
        weights=policy.weights,
        started_at=entry.at,
        cursor=dict(told.get("cursor", {})),
        entries=1,
    )


def _doing(state: State, entry: Entry) -> State:
    return replace(state, doing=entry.content["what"])


def _done(state: State, entry: Entry) -> State:
    what, told = entry.content["what"], entry.content
    state = replace(state, doing="", waits_for="")
    if what == "weigh":
        # paused before it had its weight, the step was watched at the one before: that is no hold of this one
        return replace(state, is_weighed=True, in_force=state.weight, held_s=0.0, step_requests=0)
    if what == "back":
        return replace(state, weight=0, in_force=0)
    return replace(
        state,
        done=state.done | {what},
        warm_bytes=told.get("warm_bytes", state.warm_bytes),
        requests_per_s=told.get("requests_per_s", state.requests_per_s),
        measured_workers=told.get("workers", state.measured_workers),
    )


def _step(state: State, entry: Entry) -> State:
    return replace(
        state,
        step=entry.content["index"],
        weight=entry.content["weight"],
        slow_ms=entry.content.get("slow_ms"),
        is_weighed=False,
        held_s=0.0,
        waited_s=0.0,
        step_requests=0,
        verdict=None,
        why="",
        waits_for="",
        cursor={**state.cursor, **entry.content.get("cursor", {})},
    )


def _tick(state: State, entry: Entry) -> State:
    told = entry.content
    evidence, requests = state.evidence, 0
    is_settled = state.held_s >= state.policy.settle_s
    for content in told.get("windows", ()):
        window = window_of(content)
        evidence = evidence.seen(window, is_settled)
        requests += window.canary.requests
    return replace(
        state,
        evidence=evidence,
        step_requests=state.step_requests + requests,
        held_s=state.held_s + told.get("held_s", 0.0),
        waited_s=state.waited_s + told.get("held_s", 0.0),
        cursor={**state.cursor, **told.get("cursor", {})},
        waits_for="" if told.get("held_s") else state.waits_for,
    )


def _slow(state: State, entry: Entry) -> State:
    cursor = {**state.cursor, **entry.content["cursor"]}
    return replace(state, slow_ms=entry.content["slow_ms"], cursor=cursor)


def _waits(state: State, entry: Entry) -> State:
    waited = state.waited_s + entry.content.get("waited_s", 0.0)
    return replace(state, waits_for=entry.content["why"], waited_s=waited)


def _verdict(state: State, entry: Entry) -> State:
    told = entry.content
    return replace(state, verdict=Verdict(told["verdict"]), why=told["why"], signal=told.get("signal", ""))


def _asked(state: State, entry: Entry) -> State:
    """What a person wants now; after a way back was asked for, nothing else counts."""
    what = entry.content["what"]
    if state.asked in ("abort", "rollback"):
        return state
    if what == "pause":
        return replace(state, is_paused=True)
    if what == "resume":
        return replace(state, is_paused=False, waited_s=0.0)
    return replace(state, asked=what, asked_by=entry.content["by"], is_paused=False)


def _reopened(state: State, entry: Entry) -> State:
    """A promotion is taken back."""
    return replace(state, asked="rollback", asked_by=entry.content["by"], outcome=None, ended_at=None)


def _policy(state: State, entry: Entry) -> State:
    """The step begins anew at its weight, under the new policy; later steps are those that are heavier."""
    policy = RolloutPolicy.model_validate(entry.content["policy"])
    weight = state.weight if state.doing == "weigh" else state.in_force  # a step that never had its weight is left out
    now = (weight,) if weight else ()
    return replace(
        state,
        policy=policy,
        weights=(*now, *(later for later in policy.weights if later > weight)),
        step=-1,
        is_weighed=False,
        held_s=0.0,
        waited_s=0.0,
        step_requests=0,
        verdict=None,
        evidence=no_evidence(policy, state.classes),
    )


def _ended(state: State, entry: Entry) -> State:
    told = entry.content
    return replace(state, outcome=Outcome(told["outcome"]), why=told["why"], ended_at=entry.at, waits_for="")


FOLDS = {
    "doing": _doing,
    "done": _done,
    "step": _step,
    "tick": _tick,
    "slow": _slow,
    "waits": _waits,
    "verdict": _verdict,
    "asked": _asked,
    "policy": _policy,
    ENDED: _ended,
    REOPENED: _reopened,
}


def next_action(state: State) -> Next:
    """What comes next; the same for the same journal, however often it is asked."""
    if state.outcome is not None:
        return Next(Action.NOTHING)
    if state.is_failed or state.asked in ("abort", "rollback"):
        if state.weight:
            return Next(Action.BACK)
        if AFTER[0] in state.done and UNDEFAULT not in state.done:
            return Next(Action.DO, UNDEFAULT)
        return Next(Action.END, Outcome.ABORTED if state.asked == "abort" else Outcome.ROLLED_BACK)
    for what in BEFORE:
        if what not in state.done:
            return Next(Action.DO, what)
    if state.asked == "promote" and state.weight < TOTAL:
        return Next(Action.BEGIN, step=len(state.weights) - 1)
    if state.is_paused and (not state.is_weighed or state.verdict is Verdict.PASS):
        return Next(Action.WATCH, step=state.step)
    if state.step < 0:
        return Next(Action.BEGIN, step=0)
    if not state.is_weighed:
        return Next(Action.WEIGH, step=state.step)
    is_last = state.step == len(state.weights) - 1
    if state.verdict is not Verdict.PASS and not (is_last and state.asked == "promote"):
        return Next(Action.WATCH, step=state.step)
    if not is_last:
        return Next(Action.BEGIN, step=state.step + 1)
    for what in AFTER:
        if what not in state.done:
            return Next(Action.DO, what)
    return Next(Action.END, Outcome.PROMOTED)


def passes(state: State, judgement: Judgement) -> bool:
    """Whether the present step may end with a pass now."""
    return judgement.verdict is Verdict.PASS and not state.is_paused and not state.waits_for


def is_overdue(state: State) -> bool:
    """Whether the step was undecided for as long as the policy allows."""
    return state.waited_s >= state.policy.max_hold_s


def as_json(state: State) -> dict[str, Any]:
    """For `tsctl rollout status --json`."""
    return {
        "id": state.id,
        "model": state.model,
        "canary": state.canary,
        "stable": state.stable,
        "outcome": state.outcome,
        "step": state.step,
        "steps": list(state.weights),
        "weight": state.weight,
        "held_s": round(state.held_s, 1),
        "is_paused": state.is_paused,
        "waits_for": state.waits_for,
        "why": state.why,
        "signal": state.signal,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "policy": state.policy.model_dump(mode="json"),
        "policy_digest": state.policy.digest,
        "judgement": state.judgement.as_json(),
    }
