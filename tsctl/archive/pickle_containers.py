"""Opens the containers in which pickles hide: compressed files, zip, tar and numpy files, one inside the other.

Every byte that is unpacked counts against one budget per file, so a small file cannot keep the scan busy.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import importlib
import io
import lzma
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

#: What one file may unpack to, all of its layers together: in bytes, and as a multiple of its own size where it is more
#: than SMALL_BYTES.
MAX_UNPACKED_BYTES, MAX_RATIO, SMALL_BYTES = 16 << 30, 1000, 256 << 20
#: Seconds for one file.
MAX_SECONDS = 60.0
#: A zip file in another container is read in memory, because it is read from its end.
MAX_INNER_ZIP_BYTES = 256 << 20
MAX_DEPTH = 5
MAX_NUMPY_HEADER_BYTES = 1 << 20
HEAD_BYTES = 512

ZIP, NUMPY = b"PK\x03\x04", b"\x93NUMPY"
#: First bytes of what is compressed in ways into which nobody here looks.
CLOSED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"\x28\xb5\x2f\xfd": "a file compressed with zstd",
    b"Rar!\x1a\x07": "a rar file",
    b"ZF0x": "a file of joblib before 0.10",
    b"\xff\x06\x00\x00sNaPpY": "a file compressed with snappy",
}
_DAMAGED = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)


class TooLarge(Exception):
    """A file is not read to its end; the message says why."""


class Damaged(Exception):
    """A container cannot be read to its end."""


class Budget:
    """Counts the bytes that one file unpacks to, and the time that it takes."""

    def __init__(self, file_bytes: int, seconds: float = MAX_SECONDS) -> None:
        self.left = min(MAX_UNPACKED_BYTES, max(SMALL_BYTES, MAX_RATIO * file_bytes))
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    def take(self, count: int) -> None:
        """Raises TooLarge where no more may be unpacked, or the time is over."""
        self.left -= count
        if self.left < 0:
            raise TooLarge("unpacks to more than is looked into")
        if time.monotonic() > self._deadline:
            raise TooLarge(f"takes longer to look into than {self._seconds:g} s")


class Counted(io.RawIOBase):
    """A stream whose bytes count against a budget; closing it leaves the one that it reads open.

    Args:
        is_unpacked: False: its bytes are those of the file, and only the time counts.

    What a damaged stream raises becomes Damaged.
    """

    def __init__(self, stream: Any, budget: Budget, is_unpacked: bool = True) -> None:
        super().__init__()
        self._stream, self._budget, self._is_unpacked = stream, budget, is_unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except _DAMAGED as error:
            raise Damaged(str(error) or type(error).__name__) from None
        self._budget.take(len(content) if self._is_unpacked else 0)
        buffer[: len(content)] = content
        return len(content)


class _Zlib(io.RawIOBase):
    """What a stream of zlib holds."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._inflate = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            content = self._inflate.decompress(packed, size)
            if content:
                return content
            if not packed:
                raise EOFError("it is cut off")
        return b""


def compression(head: bytes) -> str | None:
    """How a file that begins so is compressed, in a way that joblib reads; None where it is not."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bz2"
    if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        return "xz"
    if head.startswith(b"\x04\x22\x4d\x18"):
        return "lz4"
    if len(head) > 1 and head[0] == 0x78 and (head[0] << 8 | head[1]) % 31 == 0 and not head[1] & 0x20:
        return "zlib"
    return None


def decompressed(kind: str, file: BinaryIO) -> Any:
    """A stream of what the file holds.

    Raises:
        ModuleNotFoundError: the package for it is not installed.
    """
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        "gzip": lambda file: gzip.GzipFile(fileobj=file),
        "bz2": bz2.BZ2File,
        "xz": lzma.LZMAFile,  # and what lzma wrote before
        "zlib": _Zlib,
        "lz4": lambda file: importlib.import_module("lz4.frame").LZ4FrameFile(file),
    }
    return openers[kind](file)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar file."""
    return len(head) > 262 and head[257:262] == b"ustar"


def numpy_holds_objects(file: BinaryIO) -> bool:
    """Read the header of a numpy file; returns whether a pickle follows.

    Raises:
        Damaged: it has none.
    """
    begin = file.read(8)
    width = 2 if begin[6:7] == b"\x01" else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_NUMPY_HEADER_BYTES:
        raise Damaged("its header is too long")
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1").strip())
        return _has_objects(header["descr"])
    except (SyntaxError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
        raise Damaged("its header cannot be read") from None


def _has_objects(description: Any) -> bool:
    if isinstance(description, str):
        return "O" in description
    return any(_has_objects(part) for field in description for part in field[1:2])
