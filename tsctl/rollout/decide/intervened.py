"""The state after an event that comes from outside of the rollout: a command, another policy, a repair. Pure."""

from __future__ import annotations

from dataclasses import replace

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide import interventions
from tsctl.rollout.decide.events import Effect, Event
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.state import State
from tsctl.shadow.disagreement import Disagreement


def intervened(state: State, event: Event) -> State:
    """The state after an intervention; any other event leaves it as it is."""
    match event:
        case interventions.CommandReceived():
            return _command(state, event)
        case interventions.PolicyChanged(policy=policy):
            return _policy(state, policy)
        case interventions.StickyChanged(sticky=sticky, cursor=cursor):
            anew = replace(_policy(state, state.policy), sticky=sticky, since=cursor, before=())
            return replace(anew, cursor={**state.cursor, **cursor})
        case interventions.Reopened(by=by):  # a promotion is rolled back
            command = replace(state, command=Command.ROLLBACK, commanded_by=by)
            return replace(command, outcome=None, ended_at=None)
        case interventions.NodesJoined(nodes=nodes):
            return replace(state, joined=(*state.joined, *nodes))
        case interventions.Repaired(lost=lost) if lost and state.outcome is None:
            return _incomplete(state)
    return state


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
        state.unwatched,
        policy=policy,
        weights=(*now, *(later for later in policy.weights if later > weight)),
        step=-1,
        evidence=no_evidence(policy, state.classes, state.is_text),
        pairs=Disagreement(),
        unpaired={},
        done=state.done - {Effect.COPY},  # its share of the requests may be another one
    )
