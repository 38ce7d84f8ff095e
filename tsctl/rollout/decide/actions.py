"""The next action of a rollout, from its state. Pure.

Invariants: a weight above the present step is never an action; a step that has passed is never begun again; after a
fail, or a person's command to abort or roll back, every action leads back to stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Command, Effect, Outcome
from tsctl.rollout.decide.judge import Judgement, Verdict
from tsctl.rollout.decide.state import State

#: Effects before the first request reaches the canary, in this order.
PREPARATION = (Effect.VERIFY, Effect.REGISTER, Effect.VERIFY_GOLDEN)
#: Effects after the last step has passed, in this order.
COMPLETION = (Effect.SET_DEFAULT, Effect.RETIRE)


class Action(StrEnum):
    """A kind of action."""

    APPLY = "apply"  # one effect of PREPARATION or COMPLETION, or RESTORE_DEFAULT
    BEGIN_STEP = "begin step"  # fix the slow threshold, and journal it
    SET_WEIGHT = "set weight"  # of the present step
    WATCH = "watch"
    REVERT_WEIGHT = "revert weight"  # all traffic to stable
    END = "end"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Next:
    """An action with its object."""

    action: Action
    effect: Effect | None = None
    step: int = -1
    outcome: Outcome | None = None


def next_action(state: State) -> Next:
    """The next action; the same for the same journal, however often it is computed."""
    if state.outcome is not None:
        return Next(Action.NOTHING)
    if state.is_going_back:
        return _way_back(state)
    if (effect := _first_missing(state, PREPARATION)) is not None:
        return Next(Action.APPLY, effect)
    is_promoted_early = state.command is Command.PROMOTE
    if is_promoted_early and state.weight < TOTAL:
        return Next(Action.BEGIN_STEP, step=len(state.weights) - 1)
    if state.is_paused and (not state.is_weighed or state.verdict is Verdict.PASS):
        return Next(Action.WATCH, step=state.step)
    if state.step < 0:
        return Next(Action.BEGIN_STEP, step=0)
    if not state.is_weighed:
        return Next(Action.SET_WEIGHT, step=state.step)
    is_last = state.step == len(state.weights) - 1
    if state.verdict is not Verdict.PASS and not (is_last and is_promoted_early):
        return Next(Action.WATCH, step=state.step)
    if not is_last:
        return Next(Action.BEGIN_STEP, step=state.step + 1)
    if (effect := _first_missing(state, COMPLETION)) is not None:
        return Next(Action.APPLY, effect)
    return Next(Action.END, outcome=Outcome.PROMOTED)


def passes(state: State, judgement: Judgement) -> bool:
    """Whether the present step may end with a pass now."""
    return judgement.verdict is Verdict.PASS and not state.is_paused and not state.waits_for


def _way_back(state: State) -> Next:
    if state.weight:
        return Next(Action.REVERT_WEIGHT)
    if Effect.SET_DEFAULT in state.done and Effect.RESTORE_DEFAULT not in state.done:
        return Next(Action.APPLY, Effect.RESTORE_DEFAULT)
    is_aborted = state.command is Command.ABORT
    return Next(Action.END, outcome=Outcome.ABORTED if is_aborted else Outcome.ROLLED_BACK)


def _first_missing(state: State, effects: tuple[Effect, ...]) -> Effect | None:
    return next((effect for effect in effects if effect not in state.done), None)
