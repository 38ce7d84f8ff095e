"""One writer at a time: an advisory lock on a file, released by the kernel even when its holder is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from tsctl.errors import ConflictError
from tsctl.host.files import make_folder
from tsctl.host.wait import wait_until


@contextmanager
def exclusive(path: Path, subject: str, wait_s: float = 0.0) -> Iterator[Callable[[], None]]:
    """Hold the lock `path` while the block runs.

    The block gets a function that takes the lock again where its file was removed: a lock without a name keeps nobody
    out. It raises ConflictError where another process holds the lock by then.

    Args:
        path: the lock's file; made where missing, never removed.
        subject: the thing that is being changed, for the error message of the second caller.
        wait_s: how long to wait for the holder.

    Raises:
        ConflictError: another process still holds it.
    """
    with ExitStack() as stack:
        held = _take(stack, path, subject, wait_s)

        def require_held() -> None:
            nonlocal held
            if not _is_file_of(held, path):
                held = _take(stack, path, subject, 0.0)

        yield require_held


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. A caller takes a shared lock for a moment, so callers do not collide."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _take(stack: ExitStack, path: Path, subject: str, wait_s: float) -> IO[str]:
    """The file of the lock, which this process holds until the stack is closed; raises as `exclusive`."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    file = stack.enter_context(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
    if not wait_until(lambda: _is_locked(file), wait_s, 0.02):
        holder = file.read().strip() or "unknown"
        raise ConflictError(
            f"{subject} is being changed by another tsctl (process {holder})",
            "Wait for it to end, then run this again.",
        )
    with suppress(OSError):  # the disk may be full, and only the message of the next caller needs the number
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
    return file


def _is_file_of(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one that the path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(file: IO[str]) -> bool:
    """Whether this process holds the lock now, after trying to take it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
