"""The rollout journal: an append-only file of JSON lines that owns what was decided, and why.

Invariant: an entry is on the disk before what it says is done. A line that was cut off by a kill was never an entry.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.host.files import sync_folder
from tsctl.rollout.decide.events import Entry, Event
from tsctl.rollout.decide.interventions import Repaired
from tsctl.rollout.run.journal_lines import (
    content_of,
    line_of,
    make_folder,
    parse,
    write_entries,
)


class Journal:
    """One rollout's file, and what it says. The file is written again where somebody else has removed or changed it.

    Args:
        path: made by the first `append`.
        clock: seconds since 1970.
        guard: called before anything is written; raises ConflictError where another process runs the rollout.

    Attributes:
        problem: why the file lacks entries that `append` took; empty where it has all.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, guard: Callable[[], None] = lambda: None
    ) -> None:
        self.path = path
        self._guard = guard
        self._clock = clock
        mark, content = _mark(path), content_of(path)
        self.entries, size = parse(path, content)
        self.problem = ""
        self._is_behind = size < len(content)  # the file ends with half a line, or lacks entries
        self._mark = mark  # of the file as this process read or wrote it last

    @property
    def id(self) -> str:
        return self.path.stem

    def append(self, event: Event, may_be_late: bool = False) -> Entry:
        """Write the event; it is on the disk when this returns.

        Args:
            may_be_late: where the event cannot be written now, a later `append` writes it.

        Raises:
            AnalysisError: it cannot be written; then it was not.
            ConflictError: another process runs the rollout.
        """
        self.confirm()
        try:
            if self._is_behind or self._has_changed:
                self._write_again()
            entry = Entry(len(self.entries), self._now(), event)
            self._write(line_of(entry))
            self.problem = ""
        except OSError as error:
            self.problem = f"{self.path} cannot be written: {error}"
            if not may_be_late:
                raise AnalysisError(self.problem, "Is the disk full?") from error
            entry = Entry(len(self.entries), self._now(), event)
            self._is_behind = True
        self.entries.append(entry)
        return entry

    def confirm(self) -> None:
        """This process runs the rollout; called before each effect as well. Raises ConflictError where it does not."""
        self._guard()

    @property
    def _has_changed(self) -> bool:
        """Somebody else has changed or removed the file."""
        return self._mark_now != self._mark

    @property
    def _mark_now(self) -> tuple[int, int, int] | None:
        return _mark(self.path)

    def _now(self) -> float:
        """By the clock, and never before the last entry: a clock that is set back makes no time negative."""
        return max(round(self._clock(), 3), self.entries[-1].at if self.entries else 0.0)

    def _write(self, line: bytes) -> None:
        make_folder(self.path.parent)
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            before = os.fstat(descriptor)
            if self._mark is not None and _mark_of(before) != self._mark:
                raise OSError("somebody changed it at this moment")
            try:
                if file.write(line) != len(line):
                    raise OSError("the line was cut off")
                os.fsync(file)
            except OSError:
                file.truncate(before.st_size)
                raise
            finally:
                self._mark = _mark_of(os.fstat(descriptor))  # of this file, whatever has its name by now
        if is_new:
            sync_folder(self.path.parent)

    def _write_again(self) -> None:
        """Write every entry again; an entry says so, unless this process or a kill had left the file behind."""
        entries = list(self.entries)
        if not self._is_behind:
            entries.append(Entry(len(entries), self._now(), Repaired()))
        write_entries(self.path, entries)
        self.entries[:], self._is_behind, self._mark = entries, False, self._mark_now


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file and with its content; None where there is none."""
    try:
        return _mark_of(path.stat())
    except FileNotFoundError:
        return None


def _mark_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns
