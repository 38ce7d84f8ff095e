"""Takes up a rollout whose process is gone, or one that has ended as promoted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tsctl.errors import AnalysisError, ConflictError
from tsctl.gateway.state import Gateway, upstreams_written
from tsctl.host.person import person
from tsctl.host.progress import Note
from tsctl.rollout.decide.events import Event, Outcome
from tsctl.rollout.decide.interventions import Command, CommandReceived, Reopened
from tsctl.rollout.run.hold import held, open_journal, take_over
from tsctl.rollout.run.journal_files import find_journal
from tsctl.rollout.run.live_runner import live_runner
from tsctl.rollout.run.preconditions import (
    route_of,
)
from tsctl.rollout.run.runner import Runner
from tsctl.rollout.run.shared_journal import EntryTaken

#: Entries that a process which was replaced may have written since the journal was read: it is in the middle of one.
LATE_ENTRIES = 3


@contextmanager
def resumed(gateway: Gateway, model: str, note: Note, command: Command = Command.RESUME) -> Iterator[Runner]:
    """The model's unfinished rollout, with this command in its journal; this process holds it while the block runs.

    Raises:
        ConflictError: another process runs it.
        AnalysisError: there is no unfinished one, or its journal is damaged.
    """
    project = gateway.project
    with held(project, model, note) as hold:
        journal = open_journal(project, find_journal(project, model), hold)
        runner = live_runner(take_over(gateway, hold, model), journal, note)
        state = runner.state
        if state.outcome is not None:
            raise AnalysisError(
                f"the rollout {state.id} of {model} has ended: {state.outcome}",
                f"See 'tsctl rollout explain {model}'.",
            )
        _record(runner, CommandReceived(command, person()))
        yield runner


@contextmanager
def reopened(gateway: Gateway, model: str, note: Note) -> Iterator[Runner]:
    """The model's last rollout, whose promotion is rolled back; this process holds it while the block runs.

    Raises:
        ConflictError: another process runs it, or the weights have changed since.
        AnalysisError: it was not promoted.
    """
    project = gateway.project
    with held(project, model, note) as hold:
        journal = open_journal(project, find_journal(project, model), hold)
        runner = live_runner(take_over(gateway, hold, model), journal, note)
        state = runner.state
        if state.outcome is not Outcome.PROMOTED:
            raise AnalysisError(f"the last rollout of {model}, {state.id}, was not promoted: it was {state.outcome}")
        stable = route_of(gateway, model).stable
        if stable != state.canary:
            raise ConflictError(
                f"{model} {stable} is stable now, and not {state.canary}, which {state.id} promoted",
                f"Set the weights yourself: tsctl weights set {model} {state.stable}=100%",
            )
        if not any((up.model, up.version) == (model, state.stable) for up in upstreams_written(gateway)):
            raise AnalysisError(
                f"no node serves {model} {state.stable} any more, which was stable before",
                f"Release it again: tsctl rollout start {model} {state.stable}",
            )
        _record(runner, Reopened(person()))
        yield runner


def _record(runner: Runner, event: Event) -> None:
    """Journal the first event of this process, behind entries that the process before wrote at this moment."""
    for _ in range(LATE_ENTRIES):
        with suppress(EntryTaken):
            return runner.record(event)
    runner.record(event)
