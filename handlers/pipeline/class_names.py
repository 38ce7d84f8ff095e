"""Bounds the names of classes that a worker tells, because every name is a series of the gateway's counters. Pure.

While the names are few, each is told. Past MOST, only those are whose hash lies below a limit, which falls by half as
often as needed; the others are OTHER_CLASS. So workers that have seen the same names tell the same ones, and a class
that a worker has told for long is told by a new one from its first request: the canary's classes compare with stable's.
"""

from __future__ import annotations

import zlib

from handlers.contract import MOST_CLASSES, OTHER_CLASS

#: Names that are told at once; the classes of a rollout that are judged one by one are fewer.
MOST = 256


class ClassNames:
    """The names of classes that one worker tells."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._ever = 0
        self._limit = 1 << 32

    def told(self, name: str) -> str:
        """The name itself, or OTHER_CLASS."""
        return name if name in self._told or self._is_admitted(name) else OTHER_CLASS

    def _is_admitted(self, name: str) -> bool:
        if self._ever == MOST_CLASSES or _hash(name) >= self._limit:
            return False
        self._told.add(name)
        while len(self._told) > MOST:
            self._limit //= 2
            self._told = {one for one in self._told if _hash(one) < self._limit}
        is_told = name in self._told
        self._ever += is_told
        return is_told


def _hash(name: str) -> int:
    """32 bits, the same in every worker."""
    return zlib.crc32(name.encode())
