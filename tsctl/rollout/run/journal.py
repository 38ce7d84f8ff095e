"""The rollout journal: an append-only file of JSON lines that owns what was decided, and why.

Invariant: an entry is on the disk before what it says is done. A line that was cut off by a kill was never an entry.
"""

from __future__ import annotations

import json
import os
import time
from calendar import timegm
from collections.abc import Callable
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError
from tsctl.rollout.decide.events import Ended, Entry, Event, Reopened, parse_event

SUFFIX = ".jsonl"
#: An id begins with the second in which it was made, in UTC.
MOMENT = "%Y%m%dT%H%M%SZ"
#: Version of the format, under the key `version` of a journal's first line; lines without the key have format 0.
FORMAT = 1


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

    def append(self, event: Event) -> Entry:
        """Write the event; it is on the disk when this returns.

        Raises:
            AnalysisError: it cannot be written; then it was not.
        """
        entry = Entry(len(self.entries), round(self._clock(), 3), event)
        head = {"seq": entry.seq, "at": entry.at, "kind": entry.kind} | ({} if self.entries else {"version": FORMAT})
        try:
            self._write(json.dumps(head | entry.content, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise AnalysisError(f"{self.path} cannot be written: {error}", "Is the disk full?") from error
        self.entries.append(entry)
        return entry

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            if not self._is_mended:
                file.truncate(whole_bytes(self.path.read_bytes()))
                self._is_mended = True
            end = self.path.stat().st_size
            try:
                if file.write(line) != len(line):
                    raise OSError("the line was cut off")
                os.fsync(file)
            except OSError:
                file.truncate(end)
                raise
        if is_new:
            _sync_folder(self.path.parent)


def read(path: Path) -> list[Entry]:
    """Every whole line of a journal.

    Raises:
        AnalysisError: a line is damaged or missing, or a later version of tsctl wrote the journal.
    """
    return parse(path, path.read_bytes())[0]


def parse(path: Path, content: bytes, first: int = 0) -> tuple[list[Entry], int]:
    """The whole lines of a part of a journal, and how many bytes they are.

    Args:
        path: of the journal, for messages.
        first: the number of the first line.

    Raises:
        AnalysisError: as `read`.
    """
    size, entries = whole_bytes(content), []
    for number, line in enumerate(content[:size].splitlines(), first):
        try:
            fields = json.loads(line)
            if not number and fields.get("version", 0) > FORMAT:
                raise AnalysisError(
                    f"{path} has format {fields['version']}, and this tsctl reads formats up to {FORMAT}",
                    "Use the version of tsctl that wrote it, or a later one.",
                )
            entry = Entry(fields.pop("seq"), fields.pop("at"), parse_event(fields.pop("kind"), fields))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise AnalysisError(
                f"{path}, line {number + 1}: not an entry of a rollout's journal: {error}",
                "Restore the file from a backup or move it away. Gateway and nodes know the present state.",
            ) from None
        if entry.seq != number:
            raise AnalysisError(f"{path}, line {number + 1}: numbered {entry.seq}, so an entry before it is missing")
        entries.append(entry)
    return entries, size


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
    marks = [e.event for e in read(paths[-1]) if not e.seq or isinstance(e.event, Ended | Reopened)]
    return paths[-1].stem if marks and not isinstance(marks[-1], Ended) else None


def unfinished_journals(project: Project) -> list[Path]:
    """The journals of all rollouts that have not ended.

    Raises:
        AnalysisError: there never was a rollout, or a journal is damaged.
    """
    models = sorted({path.parent.name for path in journals(project)})
    if not models:
        raise AnalysisError("there is no rollout", "Begin one: tsctl rollout start MODEL VERSION")
    ids = {model: unfinished(project, model) for model in models}
    return [folder(project, model) / f"{id}{SUFFIX}" for model, id in ids.items() if id is not None]


def find_journal(project: Project, model: str, id: str | None = None) -> Path:
    """The journal of this rollout, or of the model's last one.

    Args:
        id: whole, or an unambiguous beginning.

    Raises:
        AnalysisError: there is none, or several ids begin so.
    """
    paths = [path for path in journals(project, model) if whole_bytes(path.read_bytes())]  # else nothing was begun
    if not paths:
        raise AnalysisError(f"there is no rollout of {model}", f"Begin one: tsctl rollout start {model} VERSION")
    if id is None:
        return paths[-1]
    named = [path for path in paths if path.stem == id] or [path for path in paths if path.stem.startswith(id)]
    if len(named) != 1:
        raise AnalysisError(
            f"{len(named) or 'no'} rollouts of {model} begin with {id}", f"See 'tsctl rollout history {model}'."
        )
    return named[0]


def require_none(project: Project, model: str) -> None:
    """No rollout of the model is under way.

    Raises:
        ConflictError: one has not ended.
    """
    if (unfinished_id := unfinished(project, model)) is not None:
        raise ConflictError(
            f"the rollout {unfinished_id} of {model} has not ended, and decides on its weights",
            f"'tsctl rollout resume {model}' continues it, 'abort' rolls it back, 'promote' promotes it at once.",
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
