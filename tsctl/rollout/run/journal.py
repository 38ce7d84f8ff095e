"""The rollout journal: an append-only file of JSON lines that owns what was decided, and why.

Invariant: an entry is on the disk before what it says is done. A line that was cut off by a kill was never an entry.
"""

from __future__ import annotations

import json
import os
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError

SUFFIX = ".jsonl"
#: An id begins with the second in which it was made, in UTC.
MOMENT = "%Y%m%dT%H%M%SZ"
#: The first entry, the last one, and the one after which an ended rollout goes on, to be taken back.
STARTED, ENDED, REOPENED = "started", "ended", "reopened"


@dataclass(frozen=True)
class Entry:
    """One line: what happened, and when.

    Args:
        seq: 0 for the first line of a file, and one more for each.
        at: seconds since 1970, by the clock of the machine that wrote it.
    """

    seq: int
    at: float
    kind: str
    content: Mapping[str, Any]


class Journal:
    """One rollout's file.

    Args:
        path: made by the first `append`.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.entries = read(path) if path.is_file() else []
        self._clock = clock
        self._is_mended = False

    @property
    def id(self) -> str:
        return self.path.stem

    def append(self, kind: str, **content: Any) -> Entry:
        """The entry is on the disk when this returns.

        Raises:
            AnalysisError: it cannot be written; then it was not.
        """
        entry = Entry(len(self.entries), self._clock(), kind, content)
        line = json.dumps({"seq": entry.seq, "at": round(entry.at, 3), "kind": kind, **content}, separators=(",", ":"))
        try:
            self._write(line.encode() + b"\n")
        except OSError as error:
            raise AnalysisError(f"{self.path} cannot be written: {error}", "Is the disk full?") from error
        self.entries.append(entry)
        return entry

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if not self._is_mended:
                os.ftruncate(descriptor, whole_bytes(self.path.read_bytes()))
                self._is_mended = True
            end = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError("the line was cut off")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            _sync_folder(self.path.parent)


def read(path: Path) -> list[Entry]:
    """Every whole line of a journal.

    Raises:
        AnalysisError: a line is damaged, or one is missing.
    """
    return parse(path, path.read_bytes())[0]


def parse(path: Path, content: bytes, first: int = 0) -> tuple[list[Entry], int]:
    """The whole lines of a part of a journal, and how many bytes they are.

    Args:
        path: of the journal, for what is told of a damaged line.
        first: the number of the first line.

    Raises:
        AnalysisError: a line is damaged, or one is missing.
    """
    size, found = whole_bytes(content), []
    for number, line in enumerate(content[:size].splitlines(), first):
        try:
            told = json.loads(line)
            entry = Entry(told.pop("seq"), told.pop("at"), told.pop("kind"), told)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise AnalysisError(
                f"{path}, line {number + 1}: is no entry of a rollout's journal: {error}",
                "Restore the file from a backup, or move it away; the gateway and the nodes know the present state.",
            ) from None
        if entry.seq != number:
            raise AnalysisError(f"{path}, line {number + 1}: has number {entry.seq}, so an entry is missing before it")
        found.append(entry)
    return found, size


def whole_bytes(content: bytes) -> int:
    """How much of a file is whole lines."""
    return content.rfind(b"\n") + 1


def folder(project: Project, model: str) -> Path:
    """Where the journals of a model lie."""
    return project.state / "rollouts" / model


def journals(project: Project, model: str | None = None) -> list[Path]:
    """Every journal, of one model or of all, the oldest first."""
    named = f"{model}/*{SUFFIX}" if model is not None else f"*/*{SUFFIX}"
    return sorted((project.state / "rollouts").glob(named), key=lambda path: (path.stem, path.parent.name))


def unfinished(project: Project, model: str) -> str | None:
    """The id of the model's rollout that has not ended; None where there is none.

    Raises:
        AnalysisError: its journal is damaged.
    """
    paths = journals(project, model)
    if not paths:
        return None
    kinds = [entry.kind for entry in read(paths[-1]) if entry.kind in (ENDED, REOPENED) or entry.seq == 0]
    return paths[-1].stem if kinds and kinds[-1] != ENDED else None


def require_none(project: Project, model: str) -> None:
    """No rollout of the model is under way.

    Raises:
        ConflictError: one has not ended.
    """
    if (found := unfinished(project, model)) is not None:
        raise ConflictError(
            f"the rollout {found} of {model} has not ended, and decides on its weights",
            f"'tsctl rollout abort {model}' takes it back, 'tsctl rollout promote {model}' lets it end at once.",
        )


def new_id(version: str, now: float) -> str:
    """An id that sorts by time: `20261125T093000Z-2.0`."""
    return time.strftime(MOMENT, time.gmtime(now)) + f"-{version}"


def new_path(project: Project, model: str, version: str, now: float) -> Path:
    """A journal that does not exist yet; its id is later than every other one of the model, whatever the clock says."""
    others = journals(project, model)
    if others:
        last = timegm(time.strptime(others[-1].stem.partition("-")[0], MOMENT))
        now = max(now, last + 1)
    return folder(project, model) / f"{new_id(version, now)}{SUFFIX}"


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
