"""Writes files whole or not at all, secrets readable by their owner only, and reads the last lines of logs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from tsctl.errors import SpecError

Json = dict[str, Any]
_TAIL_BYTES = 1 << 16


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing, with those above it; only its owner may read it."""
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


def open_log(path: Path) -> IO[bytes]:
    """Open the file for appending; it is made where it is missing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def write_document(path: Path, content: Json) -> None:
    """Write JSON as `write_secret` does."""
    write_secret(path, json.dumps(content) + "\n")


def write_secret(path: Path, content: str) -> None:
    """Replace the file's content at once: a reader sees the old or the new content, also after a loss of power."""
    with new_secret(path, content):
        pass


def write_public(path: Path, content: str) -> None:
    """Replace the content as `write_secret` does, in a file that everybody may read."""
    with new_public(path, content):
        pass


def unwritable(path: Path, error: OSError, hint: str) -> SpecError | OSError:
    """The error of a path that a person gave: a SpecError where no file can have it, else what this machine refuses."""
    if isinstance(error, FileExistsError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return SpecError(f"{path} cannot be written: {error.strerror}", hint)
    return OSError(error.errno, error.strerror, str(path))


def require_writable(path: Path) -> None:
    """Check that a file can be written there later, before work is done whose result would be lost. Makes its folder.

    Raises:
        SpecError: no file can have the path.
        OSError: this machine refuses it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"\n")
    except OSError as error:
        raise unwritable(path, error, "Give another file.") from None


def new_secret(path: Path, content: str) -> AbstractContextManager[None]:
    """Replace the content as `write_secret` does, after the block succeeded; the new content is on disk before it."""
    return _new_file(path, content, 0o600)


def new_public(path: Path, content: str) -> AbstractContextManager[None]:
    """As `new_secret`, of a file that everybody may read."""
    return _new_file(path, content, 0o644)


@contextmanager
def _new_file(path: Path, content: str, mode: int) -> Iterator[None]:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    making = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield
        making.replace(path)
    except BaseException:
        making.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """The names in the folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_reserve(path: Path, size: int) -> None:
    """The file holds so many bytes of the disk for `with_reserve`; fewer, or none, where the disk is full."""
    if path.is_file() and path.stat().st_size >= size:
        return
    with suppress(OSError), open_log(path) as file:
        os.posix_fallocate(file.fileno(), 0, size)


def with_reserve(path: Path, act: Callable[[], None]) -> None:
    """Act, and where the disk is full act again with the room of the reserve."""
    try:
        act()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.is_file():
            raise
        path.unlink()
        act()


def keep_short(log: Path, largest: int) -> None:
    """Move the content of a log that has grown too large to its name with .1; its writer appends to the empty file.

    Where the disk has no room for both, the content is lost: it would fill the disk for ever.
    """
    if size(log) > largest:
        older = log.with_name(f"{log.name}.1")
        try:
            shutil.copyfile(log, older)
        except OSError:
            older.unlink(missing_ok=True)
        os.truncate(log, 0)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a text file; empty where there is no file."""
    return "\n".join(lines_from(path, max(0, size(path) - _TAIL_BYTES))[-lines:])


def size(path: Path) -> int:
    """Bytes in the file now, to read on from later; 0 where there is no file."""
    return path.stat().st_size if path.is_file() else 0


def stamp(path: Path) -> tuple[int, ...]:
    """Differs after each replacement of the file, also by an equal one; empty where there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def lines_from(path: Path, offset: int) -> list[str]:
    """The lines from `offset` on; an offset past the end means that the log was rotated, and all are read."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(offset if offset <= size(path) else 0)
        return file.read().decode("utf-8", "replace").splitlines()


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove the folder where the block fails or is interrupted."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
