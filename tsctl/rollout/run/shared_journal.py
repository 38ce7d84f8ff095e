"""A journal whose entries are objects at a place; the file is a copy of them.

Invariant: entry n is written by the process that creates object n, and by no other one. A process that finds its
number taken has not read everything, or was replaced: it goes on from what is there, or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tsctl.control import large
from tsctl.control.lease import Holder
from tsctl.control.place import AlreadyThere, Place, numbered
from tsctl.errors import AnalysisError
from tsctl.rollout.decide.events import Entry, Event
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_lines import line_of, write_entries
from tsctl.rollout.run.shared import entries_at, object_of, read_object


class EntryTaken(AnalysisError):
    """The entry that was to be written has a number that is taken. The one that is there is in `entries` now."""


class SharedJournal(Journal):
    """One rollout's journal at a place.

    Args:
        path: of the copy, which `SharedJournals.pull` has written.
        writer: this process.
        guard: raises TakenOver where another process has the lease.
    """

    def __init__(
        self,
        path: Path,
        place: Place,
        writer: Holder,
        clock: Callable[[], float] = time.time,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(path, clock, guard)
        self._place = place
        self._writer = writer
        self._prefix = entries_at(path.parent.name, path.stem)

    def append(self, event: Event, may_be_late: bool = False) -> Entry:
        """Create the entry's object; it is at the place when this returns.

        Args:
            may_be_late: has no meaning here. Without the place nobody knows whether another process has taken over,
                so nothing is done that is not written there.

        Raises:
            PlaceUnreachable: the entry may be there or not; where it is, the next `append` finds it.
            EntryTaken: an entry was there, of an earlier try or of the process that was replaced.
            TakenOver: another process has taken over.
        """
        self.confirm()
        entry = Entry(len(self.entries), self._now(), event)
        name = numbered(self._prefix, entry.seq)
        content = object_of(entry, self._writer)
        try:
            large.create(self._place, name, content)
        except AlreadyThere:
            found = large.read(self._place, name)
            if found != content:
                self.confirm()  # the process that has the lease is the one that wrote it
                there, writer = read_object(name, entry.seq, found or b"")
                self._keep(there)
                raise EntryTaken(
                    f"entry {entry.seq} of the rollout {self.id} is there already, by {writer['by']}"
                ) from None
        self._keep(entry)
        return entry

    def _keep(self, entry: Entry) -> None:
        """The entry is known, and in the copy if this machine's disk has room: `pull` writes what a copy lacks."""
        self.entries.append(entry)
        try:
            if self._is_behind or self._has_changed:
                write_entries(self.path, self.entries)
                self._is_behind, self._mark = False, self._mark_now
            else:
                self._write(line_of(entry))
        except OSError:
            self._is_behind = True
