"""A place that several machines write to: small objects, each of which can be created once.

Invariant: `create` is the only operation that correctness may depend on. What two machines could write at once is a
numbered object: the one that creates number n has it, the other one gets AlreadyThere, reads on and decides anew. So
no clock, and no lock of a server, keeps two writers apart.

    TsctlError
      ConflictError
        AlreadyThere      somebody else created the object first
      AnalysisError
        PlaceUnreachable  the place does not answer now; the same call may succeed later
      SpecError
        PlaceUnusable     wrong address, credentials or package, or a place that lets an object be created twice
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Protocol

from tsctl.errors import AnalysisError, ConflictError, SpecError

#: Bytes of an object.
LARGEST = 1 << 20
#: Objects that are read at a time where many are read.
READERS = 16
#: Parts of a name; none begins with a dot, by which a folder's unfinished files begin.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@:%=\-]*")
_NUMBERED = re.compile(r"(\d{6,})\.json")
#: Where `check` creates its object.
_CHECKS = "check"


class AlreadyThere(ConflictError):
    """Somebody else created the object first."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is there already: somebody else wrote it first", "Run this again.")
        self.name = name


class PlaceUnreachable(AnalysisError):
    """The place does not answer now. After `create`, the object may be there or not."""


class PlaceUnusable(SpecError):
    """The place cannot be used as it is: a person must change the address, the credentials, or the place."""


class TooLarge(SpecError):
    """The content is larger than an object may be."""

    def __init__(self, name: str, size: int, most: int) -> None:
        super().__init__(
            f"{name} at the place of control would have {size / 1e6:.1f} MB; it may have {most / 1e6:.1f} MB",
            "Divide the keys or the models between deployments, each with a control of its own.",
        )


class Place(Protocol):
    """Objects by name, such as `rollouts/digits/000007.json`, of less than LARGEST bytes each.

    Every operation may raise PlaceUnreachable or PlaceUnusable.
    """

    @property
    def address(self) -> str:
        """For people: without a password."""

    def create(self, name: str, content: bytes) -> None:
        """The object is there, whole and durable as the place has it, when this returns.

        Raises:
            AlreadyThere: an object has the name, whatever its content.
            TooLarge: the content has LARGEST bytes or more; `large.create` takes it.
        """

    def read(self, name: str) -> bytes | None:
        """The object's content; None where there is none. Sees every `create` that has returned, on any machine."""

    def names(self, prefix: str) -> list[str]:
        """The names of objects that begin with the prefix, sorted as text."""

    def delete(self, name: str) -> None:
        """Remove an object that may be missing. For tidying only: nothing may depend on an object being gone."""


def check(place: Place) -> None:
    """Create an object twice, with different content: a place that lets the second one through is refused.

    Raises:
        PlaceUnusable: it does not refuse, or does not return what was created.
    """
    name = f"{_CHECKS}/{token_hex(8)}.json"
    place.create(name, b"first")
    try:
        try:
            place.create(name, b"second")
        except AlreadyThere:
            is_refused = True
        else:
            is_refused = False
        found = place.read(name)
    finally:
        place.delete(name)
    if not is_refused or found != b"first":
        raise PlaceUnusable(
            f"{place.address} lets an object that is there be created again, so two machines could decide at once",
            "Use a place that refuses it: a folder, Redis, or an S3 service that honours If-None-Match on PUT.",
        )


def is_name(name: str) -> bool:
    """Whether an object may have the name: no part could lead outside of the place, and every kind of place takes it.

    A file that somebody else left in a folder, or a key in a bucket, may have another one; it is no object.
    """
    return all(_PART.fullmatch(part) for part in name.split("/"))


def require_name(name: str) -> None:
    """Raises ValueError where an object may not have the name."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of an object")


def require_small(name: str, content: bytes) -> None:
    """Raises TooLarge where the content is too large for an object."""
    if len(content) >= LARGEST:
        raise TooLarge(name, len(content), LARGEST - 1)


def numbered(prefix: str, number: int) -> str:
    """The name of a numbered object: `prefix/000007.json`."""
    return f"{prefix}/{number:06}.json"


def numbers(place: Place, prefix: str) -> list[int]:
    """The numbers that are taken below a prefix, in order; other names, and those of folders below it, are none."""
    found = (_NUMBERED.fullmatch(name.removeprefix(f"{prefix}/")) for name in place.names(f"{prefix}/"))
    return sorted(int(match[1]) for match in found if match)


def read_on(
    place: Place, prefix: str, first: int, read: Callable[[Place, str], bytes | None] | None = None
) -> list[bytes]:
    """The numbered objects from `first` on, up to the first number that is missing.

    Args:
        read: an object, such as `large.read`; None: `Place.read`.
    """
    contents: list[bytes] = []
    with ThreadPoolExecutor(READERS) as readers:
        for wanted in _batches(first):
            names = [numbered(prefix, number) for number in wanted]
            found = list(readers.map(lambda name: read(place, name) if read else place.read(name), names))
            there = found.index(None) if None in found else len(found)
            contents += [content for content in found[:there] if content is not None]
            if there < len(found):
                return contents
    raise AssertionError("This is a bug.")


def _batches(first: int) -> Iterator[range]:
    """One number, as there is often nothing new, then more at a time."""
    size = 1
    while True:
        yield range(first, first + size)
        first, size = first + size, READERS
