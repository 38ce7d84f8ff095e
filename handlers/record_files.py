"""The files of prediction records in a node's folder: their names, and how a segment is closed (docs/records.md).

Both worlds import it, as they do contract.py. Invariant: standard library only; all that decides whether a file is
read or deleted is in its name, and an open segment is closed only by who holds its lock.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

#: Kinds of the files: records of predictions, the inputs that belong to them, and stable's second answers to them.
RECORDS, INPUTS, REPEATS = "records", "inputs", "repeats"
#: Ends of the names of files: a segment that a worker writes, a closed one, and many of them in one.
OPEN_SEGMENT, CLOSED_SEGMENT, PARQUET = ".jsonl.open", ".jsonl", ".parquet"
_RECORD_FILE = re.compile(
    rf"(?P<kind>{RECORDS}|{INPUTS}|{REPEATS})-(?P<begin>\d{{13}})-(?P<expiry>\d{{13}})-(?P<rest>[\w]+)"
    rf"(?P<end>{re.escape(OPEN_SEGMENT)}|{re.escape(CLOSED_SEGMENT)}|{re.escape(PARQUET)})",
    re.ASCII,
)
#: A segment is closed at this many bytes, or after this many seconds; an open one counts as full.
SEGMENT_BYTES, SEGMENT_S = 8 << 20, 60.0


@dataclass(frozen=True, order=True)
class RecordFile:
    """The name of a file of prediction records; by it alone, files are chosen, and the oldest are deleted."""

    begin_ms: int  # of its first record, in milliseconds since 1970
    expiry_ms: int  # when its newest record is to be deleted
    kind: str  # RECORDS, INPUTS or REPEATS
    rest: str  # makes the name unique
    end: str  # OPEN_SEGMENT, CLOSED_SEGMENT or PARQUET

    @property
    def name(self) -> str:
        """The name in the folder."""
        return f"{self.kind}-{self.begin_ms:013d}-{self.expiry_ms:013d}-{self.rest}{self.end}"


def parse_record_file(name: str) -> RecordFile | None:
    """The parts of a name; None where it is no file of records."""
    match = _RECORD_FILE.fullmatch(name)
    if match is None:
        return None
    return RecordFile(int(match["begin"]), int(match["expiry"]), match["kind"], match["rest"], match["end"])


def record_files(folder: Path) -> list[RecordFile]:
    """The files of records in the folder, the oldest first; nothing else that lies there.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(file for entry in os.scandir(folder) if (file := parse_record_file(entry.name)))


def close_segment(folder: Path, file: RecordFile, descriptor: int) -> Path | None:
    """Give an open segment, whose lock the caller holds, its closed name; the begin of a line at its end is cut off.

    Returns:
        The closed segment; None where it held nothing and was removed, or somebody else closed it.

    Raises:
        OSError: the folder or the file cannot be changed.
    """
    path = folder / file.name
    try:
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            return None
    except FileNotFoundError:
        return None
    size = os.fstat(descriptor).st_size
    whole = _end_of_last_line(descriptor, size)
    if whole < size:
        os.ftruncate(descriptor, whole)
    if not whole:
        path.unlink()
        return None
    return path.rename(folder / f"{file.name.removesuffix(OPEN_SEGMENT)}{CLOSED_SEGMENT}")


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Bytes up to the last newline, with it."""
    end = size
    while end > 0:
        begin = max(0, end - (1 << 16))
        place = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if place >= 0:
            return begin + place + 1
        end = begin
    return 0


def close_orphans(folder: Path) -> list[Path]:
    """Close the open segments whose writers ended without doing so; returns the closed ones.

    Raises:
        OSError: the folder cannot be read or changed.
    """
    closed = []
    for file in record_files(folder):
        if file.end != OPEN_SEGMENT:
            continue
        try:
            descriptor = os.open(folder / file.name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = close_segment(folder, file, descriptor)
            closed += [path] if path else []
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return closed
