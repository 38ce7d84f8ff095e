"""Bounds the class names that a worker sends, because every name is a series of the gateway's counters. Pure.

Up to MOST names, each is sent. Beyond that, only names whose hash lies below a limit are sent; the limit is halved as
often as needed, and the other names become OTHER_CLASS. So workers that have seen the same names send the same ones,
and a new worker sends a name of an old one from its first request: the canary's classes compare with stable's.
"""

from __future__ import annotations

import zlib

from handlers.contract import MOST_CLASSES, OTHER_CLASS

#: Names that are sent at a time; a rollout judges fewer classes one by one.
MOST = 256


class ClassNames(dict[str, str]):
    """The class names that one worker sends, each as its own value; the value of any other name is OTHER_CLASS.

    A dictionary, because every answer looks a name up.
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
