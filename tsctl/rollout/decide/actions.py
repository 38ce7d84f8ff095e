"""The next action of a rollout, from its state. Pure.

Invariants: a weight above the present step is never an action; a step that has passed is never begun again; after a
fail, or a command to abort or roll back, every action leads back to stable.
"""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Effect, Outcome
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import Verdict
from tsctl.rollout.decide.state import State

#: Effects before the first request reaches the canary, in this order.
PREPARATION = (Effect.VERIFY, Effect.REGISTER, Effect.VERIFY_GOLDEN)
#: Effects after the last step has passed, in this order.
COMPLETION = (Effect.SET_DEFAULT, Effect.RETIRE)
#: Effects that are left undone where they fail for long; `tsctl apply` catches up on them.
OPTIONAL = (Effect.EXTEND, *COMPLETION, Effect.RESTORE_DEFAULT, Effect.STOP_COPYING)


@dataclass(frozen=True)
class BeginStep:
    """Fix the slow threshold of a step, and journal both."""

    index: int


@dataclass(frozen=True)
class Watch:
    """Read evidence and judge."""


@dataclass(frozen=True)
class WatchShadow:
    """Compare the answers to copies, and judge."""


#: Apply an effect, begin a step, watch it or the shadow stage, or journal the end.
Action = Effect | BeginStep | Watch | WatchShadow | Outcome


def next_action(state: State) -> Action | None:
    """The next action, the same for the same journal however often it is computed; None where it has ended."""
    if state.outcome is not None:
        return None
    if state.is_going_back:
        return _way_back(state)
    if (effect := _first_missing(state, PREPARATION)) is not None:
        return effect
    if state.is_in_shadow_stage:
        return WatchShadow() if Effect.COPY in state.done else Effect.COPY
    if state.is_copied:
        return Effect.STOP_COPYING
    is_promoted_early = state.command is Command.PROMOTE
    if is_promoted_early and state.weight < TOTAL:
        return BeginStep(len(state.weights) - 1)
    if state.is_paused and (not state.is_weighed or state.verdict is Verdict.PASS):
        return Watch()
    if state.step < 0:
        return BeginStep(0)
    if not state.is_weighed:
        return Effect.SET_WEIGHT
    is_last = state.step == len(state.weights) - 1
    if state.verdict is not Verdict.PASS and not (is_last and is_promoted_early):
        return Watch()
    if not is_last:
        return BeginStep(state.step + 1)
    if state.joined and Effect.SET_DEFAULT not in state.done:
        return Effect.EXTEND
    if (effect := _first_missing(state, COMPLETION)) is not None:
        return effect
    return Outcome.PROMOTED


def _way_back(state: State) -> Action:
    if state.weight:
        return Effect.REVERT_WEIGHT
    if Effect.SET_DEFAULT in state.done and Effect.RESTORE_DEFAULT not in state.done:
        return Effect.RESTORE_DEFAULT
    if state.is_copied:
        return Effect.STOP_COPYING
    return Outcome.ABORTED if state.command is Command.ABORT else Outcome.ROLLED_BACK


def _first_missing(state: State, effects: tuple[Effect, ...]) -> Effect | None:
    return next((effect for effect in effects if effect not in state.done), None)
