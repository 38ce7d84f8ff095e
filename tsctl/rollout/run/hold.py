"""The right to run a model's rollout: one process has it, on one machine or on all that share a place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsctl.config.project import Project
from tsctl.control.here import shared_leases, shared_place
from tsctl.control.leases import this_process
from tsctl.gateway.state import Gateway, as_writer
from tsctl.host.locks import exclusive, is_held
from tsctl.host.progress import Note
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import lock_of
from tsctl.rollout.run.journal_lines import read
from tsctl.rollout.run.shared import SharedCommands, shared_journals
from tsctl.rollout.run.shared_journal import SharedJournal

#: A status check may hold the lock for this long.
BRIEF_S = 0.5


def is_running(project: Project, model: str, note: Note | None = None) -> bool:
    """Whether a process runs the model's rollout, on any machine that shares the place.

    Args:
        note: gets what is waited for: a sign of life of a process that may be dead. None: it counts as running.
    """
    if is_held(lock_of(project, model)):
        return True
    leases = shared_leases(project)
    return leases is not None and leases.is_held(_subject(model), note)


@dataclass(frozen=True)
class Hold:
    """The right to run the model's rollout.

    Args:
        require: raises ConflictError where another process has it by now.
        term: of the lease; None where machines share no place.
    """

    require: Callable[[], None]
    term: int | None = None


@contextmanager
def held(project: Project, model: str, note: Note = lambda text: None) -> Iterator[Hold]:
    """Keeps every other process from running a rollout of the model while the block runs, on all machines.

    Raises:
        ConflictError: another process runs it.
        PlaceUnreachable, PlaceUnusable: nobody knows whether one does.
    """
    with exclusive(lock_of(project, model), f"the rollout of {model}", BRIEF_S) as require_lock:
        leases = shared_leases(project)
        if leases is None:
            yield Hold(require_lock)
            return
        lease = leases.take(_subject(model), note)
        with lease.kept() as require_lease:

            def require() -> None:
                require_lock()
                require_lease()

            yield Hold(require, lease.term.number)


def _subject(model: str) -> str:
    """Of the lease."""
    return f"rollout-{model}"


def take_over(gateway: Gateway, hold: Hold, model: str) -> Gateway:
    """The gateway as this process changes it; one that had the hold before changes it no more. Raises ConflictError."""
    return gateway if hold.term is None else as_writer(gateway, hold.require, _subject(model), hold.term)


def open_journal(project: Project, path: Path, hold: Hold) -> Journal:
    """The journal at `path`, to be written."""
    shared, model = shared_journals(project), path.parent.name
    if shared is None:
        return Journal(path, guard=hold.require)
    if path.exists():
        shared.restore(model, path.stem, read(path), this_process())
        shared.pull(model, path.parent)
    else:
        shared.begin(model, path.stem)
    return SharedJournal(path, shared.place, this_process(), guard=hold.require)


def commands_of(project: Project, model: str) -> SharedCommands | None:
    place = shared_place(project)
    return SharedCommands(place, model) if place is not None else None
