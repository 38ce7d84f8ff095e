"""Appends lines to segments in a folder that many processes share: rotated, and bounded in size, time and free space.

Invariant: a write is of whole lines, and nothing is appended after one that failed. The folder's files never have more
than `most_bytes` together, where each open segment counts as full.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from handlers.record_files import (
    OPEN_SEGMENT,
    SEGMENT_BYTES,
    SEGMENT_S,
    RecordFile,
    close_orphans,
    close_segment,
    record_files,
)

#: Nothing is written where less of the disk is free: so many bytes, or this share of it if that is more.
LEAST_FREE, LEAST_FREE_SHARE = 512 << 20, 0.01
_DAY_MS = 86_400_000


class NoRoom(OSError):
    """The disk or the folder is as full as it may be."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ENOSPC, reason)


class SegmentWriter:
    """The segments of one kind that this process writes, one after the other.

    Args:
        folder: it is made where it is missing.
        kind: RECORDS, INPUTS or REPEATS.
        days: after which a line is to be deleted.
        most_bytes: of all files in the folder, whoever wrote them.
        clock: seconds since 1970.
        free: free bytes and all bytes of the folder's disk.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        days: float,
        most_bytes: int,
        clock: Callable[[], float],
        free: Callable[[Path], tuple[int, int]],
    ) -> None:
        self._folder = folder
        self._kind = kind
        self._days = days
        self._most_bytes = most_bytes
        self._clock = clock
        self._free = free
        self._file: RecordFile | None = None
        self._descriptor = -1
        self._size = 0

    def append(self, lines: bytes) -> None:
        """Write whole lines, into a new segment where this one is full.

        Raises:
            OSError: nothing of them was written that a reader sees; the next call tries a new segment.
        """
        self.rotate()
        if self._file is not None and not self._is_in_place(self._file):
            self._release()  # its folder was removed or moved: nobody would read what is appended
        if self._file is not None and self._size + len(lines) > SEGMENT_BYTES:
            self.close()
        try:
            if self._file is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._require_free_disk()
            if self._file is None:
                self._open()
            if os.write(self._descriptor, lines) < len(lines):
                raise NoRoom("the disk is full")
            self._size += len(lines)
        except OSError:
            with suppress(OSError):  # of the same disk: the reason is raised, and what is open has no owner from now on
                self._cut()
            self._release()
            raise

    def rotate(self) -> None:
        """Close the segment if it is old; its lines become Parquet, and can be deleted, only when it is closed."""
        if self._file is not None and self._clock() * 1000 >= self._file.begin_ms + SEGMENT_S * 1000:
            with suppress(OSError):  # the segment stays open and without an owner, and the next writer closes it
                self.close()

    def close(self) -> None:
        """Close the segment.

        Raises:
            OSError: it stays open, and without an owner.
        """
        file, descriptor = self._file, self._descriptor
        if file is None:
            return
        try:
            close_segment(self._folder, file, descriptor)
        finally:
            self._release()

    def _is_in_place(self, file: RecordFile) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), (self._folder / file.name).stat())
        except OSError:
            return False

    def _cut(self) -> None:
        if self._file is not None:
            os.ftruncate(self._descriptor, self._size)
            close_segment(self._folder, self._file, self._descriptor)

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # and with it the lock
        self._file, self._descriptor, self._size = None, -1, 0

    def _require_free_disk(self) -> None:
        free, total = self._free(self._folder)
        if free < max(LEAST_FREE, LEAST_FREE_SHARE * total):
            raise NoRoom(f"{free >> 20} MiB of the disk are free")

    def _open(self) -> None:
        """Make a segment that is locked before others see it, and room for it."""
        now_ms = round(self._clock() * 1000)
        expiry_ms = now_ms + round(SEGMENT_S * 1000) + round(self._days * _DAY_MS)
        file = RecordFile(now_ms, expiry_ms, self._kind, f"{os.getpid()}_{token_hex(4)}", OPEN_SEGMENT)
        making = self._folder / f".{file.name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(making, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            making.rename(self._folder / file.name)
        except OSError:
            making.unlink(missing_ok=True)
            raise
        self._file, self._size = file, 0
        close_orphans(self._folder)
        self._make_room(now_ms)

    def _make_room(self, now_ms: int) -> None:
        """Delete what has expired, and the oldest closed files, until all open segments could be full.

        Raises:
            NoRoom: the open segments alone are too many.
        """
        files = record_files(self._folder)
        sizes = {file: SEGMENT_BYTES if file.end == OPEN_SEGMENT else self._size_of(file) for file in files}
        total = sum(sizes.values())
        for file in files:
            if file.end != OPEN_SEGMENT and (file.expiry_ms <= now_ms or total > self._most_bytes):
                (self._folder / file.name).unlink(missing_ok=True)
                total -= sizes[file]
        if total > self._most_bytes:
            raise NoRoom(f"the open segments of all workers need more than {self._most_bytes >> 20} MiB")

    def _size_of(self, file: RecordFile) -> int:
        try:
            return (self._folder / file.name).stat().st_size
        except FileNotFoundError:  # another worker has just deleted it
            return 0


def free_bytes(folder: Path) -> tuple[int, int]:
    """Bytes that this user may still write to the folder's disk, and all bytes of that disk."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
