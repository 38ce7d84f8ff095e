"""The form of a rollout's journal: JSON lines, one for each entry; in a place, each line is an object."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.host.files import sync_folder, write_secret
from tsctl.rollout.decide.events import Entry, Started
from tsctl.rollout.decide.stored import LaterEvent, parse_event, to_json

#: Version of the format, under the key `version` of a journal's first line; lines without the key have format 0.
FORMAT = 1
#: Seconds since 1970 that a time of an entry must be below: the year 10000.
_LATEST = 253_402_300_800.0


class DamagedJournal(AnalysisError):
    """A journal has a line that is no entry, or lacks one; `tsctl rollout repair` mends it."""


class LaterJournal(AnalysisError):
    """A later version of tsctl wrote the journal; it is sound, and must not be repaired with this one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Use the version of tsctl that wrote it, or a later one.")


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write a whole journal, at once and on the disk; OSError where that cannot be done."""
    make_folder(path.parent)
    write_secret(path, b"".join(map(line_of, entries)).decode())
    sync_folder(path.parent)


def line_of(entry: Entry) -> bytes:
    """The line of an entry, with its end; the form that an object of a place has as well."""
    head = {"seq": entry.seq, "at": entry.at, "kind": entry.kind} | ({} if entry.seq else {"version": FORMAT})
    return json.dumps(head | to_json(entry.event), separators=(",", ":")).encode() + b"\n"


def content_of(path: Path) -> bytes:
    """Of the file; nothing where there is none.

    Raises:
        DamagedJournal: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DamagedJournal(f"{path} cannot be read: {error}", "Make it readable, or move it away.") from None


def read(path: Path) -> list[Entry]:
    """Every whole line of a journal.

    Raises:
        DamagedJournal: a line is damaged or missing.
        LaterJournal: a later version of tsctl wrote the journal.
    """
    return parse(path, content_of(path))[0]


def parse(path: Path, content: bytes, first: int = 0) -> tuple[list[Entry], int]:
    """The whole lines of a part of a journal, and how many bytes they are.

    Args:
        path: of the journal, for messages.
        first: the number of the first line.

    Raises:
        DamagedJournal, LaterJournal: as `read`.
    """
    size, entries = whole_bytes(content), []
    for number, line in enumerate(content[:size].splitlines(), first):
        try:
            entry = parse_line(path, line)
            if entry.seq != number:
                raise ValueError(f"numbered {entry.seq}, so an entry before it is missing")
            if not number and not isinstance(entry.event, Started):
                raise ValueError("it is not the start of a rollout")
        except ValueError as error:
            raise DamagedJournal(
                f"{path}, line {number + 1}: {error}",
                f"'tsctl rollout repair {path.parent.name}' keeps what can be read, and says how the rollout stands.",
            ) from None
        entries.append(entry)
    return entries, size


def parse_line(path: Path, line: bytes) -> Entry:
    """The entry of one line.

    Raises:
        ValueError: it is none.
        LaterJournal: a later version of tsctl wrote it.
    """
    try:
        fields = json.loads(line)
        version = fields.pop("version", 0) if fields.get("seq") == 0 else 0
        if isinstance(version, int) and version > FORMAT:
            raise LaterJournal(f"{path} has format {version}, and this tsctl reads formats up to {FORMAT}")
        seq, at, kind = fields.pop("seq"), fields.pop("at"), fields.pop("kind")
        if type(seq) is not int or type(at) not in (int, float) or not 0 <= at < _LATEST or type(version) is not int:
            raise ValueError("a number is wrong")
        return Entry(seq, at, parse_event(kind, fields))
    except LaterEvent as error:
        raise LaterJournal(f"{path} is of a later version of tsctl: {error}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not an entry of a rollout's journal: {error}") from None


def whole_bytes(content: bytes) -> int:
    """How much of a file is whole lines."""
    return content.rfind(b"\n") + 1


def make_folder(path: Path) -> None:
    """Make the folder of journals where it is missing; only its owner may read it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
