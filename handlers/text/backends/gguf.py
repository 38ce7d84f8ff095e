"""Reads what a GGUF file says of its model (architecture, context, tokenizer, chat template), and tensors as they lie.

The package `gguf` needs 3 s for the same, most of it for the 98,000 strings of a tokenizer.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from handlers.errors import LoadError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
#: numpy's names of the types of fixed size, by GGUF's number.
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}


def read_facts(path: Path) -> dict[str, Any]:
    """The file's keys and values; arrays of numbers as numpy arrays, of strings as lists.

    Raises:
        LoadError: it is no GGUF file, or ends too early.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).facts()
    except (OSError, struct.error, ValueError, KeyError, IndexError) as error:
        raise LoadError(f"{path.name} cannot be read as GGUF: {error}") from error


@dataclass(frozen=True)
class Blocks:
    """One matrix of quantised weights, as the file has it.

    Args:
        kind: GGUF's number of its type.
        data: uint8, shape (rows, blocks of a row, bytes of a block).
    """

    kind: int
    data: np.ndarray


def read_blocks(path: Path, kinds: Mapping[int, tuple[int, int]]) -> Iterator[Blocks]:
    """The matrices of these types, one after the other.

    Args:
        kinds: weights and bytes of a block, by type.

    Raises:
        LoadError: it is no GGUF file, or ends too early.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _Reader(content)
            alignment = int(reader.facts().get("general.alignment", _ALIGNMENT))
            tensors = list(reader.tensors())
            begin = -(-reader.place // alignment) * alignment
            for shape, kind, offset in tensors:
                if kind in kinds and len(shape) == 2:
                    weights, size = kinds[kind]
                    blocks = shape[0] // weights, size
                    found = np.frombuffer(content, np.uint8, shape[1] * prod(blocks), begin + offset)
                    yield Blocks(kind, found.reshape(shape[1], *blocks).copy())
                    del found  # it keeps the file open
    except (OSError, struct.error, ValueError, KeyError, IndexError, UnicodeError) as error:
        raise LoadError(f"{path.name} cannot be read as GGUF: {error}") from error


class _Reader:
    """A place in the file that moves on with what is read."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._place = 0
        self._tensors = 0

    @property
    def place(self) -> int:
        return self._place

    def facts(self) -> dict[str, Any]:
        if self._content[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._place = 4
        version = self._number("<u4")
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version}, and versions {_VERSIONS[0]} and {_VERSIONS[1]} are known")
        self._tensors = self._number("<u8")
        return {self._string(): self._value(self._number("<u4")) for _ in range(self._number("<u8"))}

    def tensors(self) -> Iterator[tuple[list[int], int, int]]:
        """Shape, type and place of each tensor, behind the facts; the numbers of a row come first in a shape."""
        for _ in range(self._tensors):
            self._string()  # its name
            shape = [self._number("<u8") for _ in range(self._number("<u4"))]
            yield shape, self._number("<u4"), self._number("<u8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("<u4"), self._number("<u8"))
        return self._number(_NUMBERS[kind])

    def _array(self, kind: int, length: int) -> Any:
        if kind in _NUMBERS:
            values = np.frombuffer(self._content, _NUMBERS[kind], length, self._place).copy()
            self._place += values.nbytes
            return values
        if length > len(self._content):
            raise ValueError(f"a list has {length} entries")
        return [self._value(kind) for _ in range(length)]

    def _number(self, kind: str) -> Any:
        value = np.frombuffer(self._content, kind, 1, self._place)[0].item()
        self._place += np.dtype(kind).itemsize
        return value

    def _string(self) -> str:
        (length,) = struct.unpack_from("<Q", self._content, self._place)
        begin = self._place + 8
        if begin + length > len(self._content):
            raise ValueError("it ends too early")
        self._place = begin + length
        return self._content[begin : self._place].decode()
