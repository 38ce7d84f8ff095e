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


class ClassNames(dict[str, str]):
    """The names of classes that one worker tells, each as its own value; the value of any other name is OTHER_CLASS.

    A dictionary, because a name that is told is looked up for every answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ever = 0
        self._limit = 1 << 32

    def __missing__(self, name: str) -> str:
        if self._ever == MOST_CLASSES or _hash(name) >= self._limit:
            return OTHER_CLASS
        self[name] = name
        while len(self) > MOST:
            self._limit //= 2
            for one in [one for one in self if _hash(one) >= self._limit]:
                del self[one]
        if name not in self:
            return OTHER_CLASS
        self._ever += 1
        return name


def _hash(name: str) -> int:
    """32 bits, the same in every worker."""
    return zlib.crc32(name.encode())
