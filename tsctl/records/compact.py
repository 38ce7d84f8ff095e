"""Turns closed segments into Parquet, merges small files, deletes what has expired, and removes a client's records."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.record_files import (
    CLOSED_SEGMENT,
    OPEN_SEGMENT,
    PARQUET,
    RECORDS,
    SEGMENT_S,
    RecordFile,
    close_orphans,
    record_files,
)
from tsctl.errors import AnalysisError, ConflictError
from tsctl.host.locks import exclusive
from tsctl.host.wait import wait_until
from tsctl.records.database import connect, quoted, require, select
from tsctl.records.folder import current_files, finish, replace
from tsctl.records.labels import forget

if TYPE_CHECKING:
    import duckdb

#: So many Parquet files of a day become one, if none is larger than this; a file is what `records_mb` deletes at once.
MANY, LARGEST = 8, 32 << 20
#: Rows of a row group: what a query decodes at once.
_GROUP = 122_880
_DAY_MS = 86_400_000
#: Seconds within which a worker closes the segment that it has open now, and another process ends its pass.
CLOSED_WITHIN_S, LOCK_WAIT_S = SEGMENT_S + 15, 5.0


@dataclass(frozen=True)
class Compacted:
    """What one pass over a folder did."""

    segments: int  # that became Parquet
    files: int  # Parquet files that were written
    expired: int  # files that were deleted


def compact(folder: Path, now_s: float | None = None) -> Compacted:
    """Bring the folder's closed segments into few Parquet files; writers and readers go on meanwhile.

    Raises:
        ConflictError: another process does it.
        AnalysisError: a file cannot be read.
        OSError: the folder cannot be changed.
    """
    if not folder.is_dir():
        return Compacted(0, 0, 0)
    with _alone(folder):
        now_ms = round((time.time() if now_s is None else now_s) * 1000)
        expired = [file for file in current_files(folder) if file.end != OPEN_SEGMENT and file.expiry_ms <= now_ms]
        for file in expired:
            (folder / file.name).unlink(missing_ok=True)
        segments = _groups(file for file in current_files(folder) if file.end == CLOSED_SEGMENT)
        packed = [group for group in segments if _rewrite(folder, group)]
        small = [group for group in _groups(_small(folder)) if len(group) >= MANY]
        merged = [group for group in small if _rewrite(folder, group)]
        return Compacted(sum(map(len, packed)), len(packed) + len(merged), len(expired))


def purge(folder: Path, client: str, labels: Path | None = None) -> dict[str, int]:
    """Remove everything of a client that was recorded before the call; returns the number of rows by kind.

    It waits until workers have closed the segments that are open now. Labels go first: without records, nothing would
    say whose they are.

    Args:
        labels: the folder of labels; those of the client's requests are removed, and counted under `labels`.

    Raises:
        ConflictError: another process changes the folder, or a worker does not close its segment.
        AnalysisError: a file cannot be read.
    """
    removed: dict[str, int] = defaultdict(int)
    if not folder.is_dir():
        return removed
    opened = {file.name for file in record_files(folder) if file.end == OPEN_SEGMENT}

    def are_closed() -> bool:
        close_orphans(folder)
        return opened.isdisjoint(file.name for file in record_files(folder))

    if not wait_until(are_closed, CLOSED_WITHIN_S, 0.25):
        raise ConflictError(f"a worker has kept its segment in {folder} open for too long", "See 'tsctl status'.")
    with _alone(folder):
        files = [file for file in current_files(folder) if file.end != OPEN_SEGMENT]
        named = [str(folder / file.name) for file in files if file.kind == RECORDS]
        if labels is not None and named:
            requests = f"SELECT request_id FROM ({select(RECORDS, named)}) WHERE client = $1"
            if forgotten := forget(labels, requests, [client]):
                removed["labels"] = forgotten
        for file in files:
            rows, kept = count_rows(folder / file.name, file.kind, client)
            if rows and kept:
                _rewrite(folder, [file], client)  # a file that is gone has no rows of the client either
            elif rows:
                (folder / file.name).unlink(missing_ok=True)
            removed[file.kind] += rows
    return removed


def hand_over(folder: Path, take: Callable[[Path], object]) -> None:
    """Give every Parquet file to `take`, and remove it here when that returns.

    Raises:
        ConflictError: another process changes the folder.
    """
    if not folder.is_dir():
        return
    with _alone(folder):
        for file in current_files(folder):
            path = folder / file.name
            if file.end != PARQUET:
                continue
            try:
                take(path)
            except FileNotFoundError:
                if path.exists():  # it is the other place that was not found
                    raise
                continue  # a worker has just deleted the file, for room
            path.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder without what killed processes left; no other process compacts or purges it."""
    with exclusive(folder / ".compact.lock", f"the records in {folder}", LOCK_WAIT_S):
        finish(folder)
        close_orphans(folder)
        yield


def _groups(files: Iterator[RecordFile]) -> list[list[RecordFile]]:
    """The files by kind and day of expiry, so that none keeps others for more than a day."""
    groups: dict[tuple[str, int], list[RecordFile]] = defaultdict(list)
    for file in files:
        groups[file.kind, file.expiry_ms // _DAY_MS].append(file)
    return list(groups.values())


def _small(folder: Path) -> Iterator[RecordFile]:
    for file in current_files(folder):
        if file.end == PARQUET and (folder / file.name).stat().st_size <= LARGEST:
            yield file


def _rewrite(folder: Path, files: Sequence[RecordFile], without_client: str | None = None) -> bool:
    """Put one file in place of others; False where a worker deleted one of them, for room, before all were read.

    Raises:
        AnalysisError: a file cannot be read.
    """
    sources = [folder / file.name for file in files]
    try:
        replace(folder, files, lambda path: write_rows(files[0].kind, sources, path, without_client))
    except AnalysisError:
        if all((folder / file.name).exists() for file in files):
            raise
        return False
    return True


def write_rows(kind: str, sources: Sequence[Path], target: Path, without_client: str | None = None) -> None:
    """Write the rows of files of one kind into one Parquet file.

    Raises:
        AnalysisError: a file cannot be read.
    """
    rows = select(kind, [str(source) for source in sources])
    with _reading() as connection:
        connection.execute(
            f"COPY (SELECT * FROM ({rows}) WHERE $1 IS NULL OR client IS DISTINCT FROM $1) TO {quoted(str(target))}"
            f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_GROUP})",
            [without_client],
        )


def count_rows(path: Path, kind: str, client: str) -> tuple[int, int]:
    """Rows of the client, and of all others; none of a file that a worker has just deleted."""
    counted = "count(*) FILTER (client = $1), count(*) FILTER (client IS DISTINCT FROM $1)"
    try:
        with _reading() as connection:
            found = connection.execute(f"SELECT {counted} FROM ({select(kind, [str(path)])})", [client]).fetchone()
    except AnalysisError:
        if path.exists():
            raise
        return 0, 0
    assert found is not None  # noqa: S101 - an aggregate has one row
    return found


@contextmanager
def _reading() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection; raises AnalysisError where a statement cannot read a file or needs too much memory."""
    connection = connect()
    try:
        yield connection
    except require("duckdb").Error as error:
        raise AnalysisError(f"records cannot be read: {str(error).strip().splitlines()[0]}") from None
    finally:
        connection.close()
