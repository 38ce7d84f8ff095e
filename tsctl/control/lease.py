"""Leases: who works on a thing now, so that two operators do not fight. Pure: clocks and objects are arguments.

A lease of a subject is a row of terms, each a numbered object that is created once. The last term has the lease. Its
holder gives signs of life; a term without one for TTL_S, by the watch of the machine that wants to take over, is over,
and that machine creates the next number. Invariant: a holder that no longer has the last number changes nothing. No
clock of a holder decides anything: times in objects are for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from tsctl.errors import AnalysisError, ConflictError
from tsctl.host.documents import checked, parse_json

#: Seconds since 1970 that a time is below: the year 10000.
LATEST = 253_402_300_800.0
#: A term without a sign of life for so long is over; a holder gives one this often.
TTL_S, SIGN_S = 20.0, 5.0


class TakenOver(ConflictError):
    """Another process has the lease, so this one changes nothing more."""

    def __init__(self, subject: str, by: str) -> None:
        super().__init__(
            f"{by} took over {subject}, so this process changes nothing more",
            "See 'tsctl control status'; 'tsctl rollout watch MODEL' shows what the other process does.",
        )


class Forgotten(ConflictError):
    """The place has lost what it had said to keep, so nobody knows who holds what."""

    def __init__(self, address: str, subject: str) -> None:
        super().__init__(
            f"{address} has lost the lease of {subject}, which it had said to keep; this process changes nothing more",
            "See docs/control.md for places that forget. Then, on this machine: tsctl rollout resume MODEL",
        )


class DamagedLease(AnalysisError):
    """An object of a lease is none that tsctl wrote.

    Args:
        number: of the term that cannot be read. Its holder is not known, and may be alive; the next term replaces it.
    """

    def __init__(self, subject: str, number: int, why: object) -> None:
        super().__init__(
            f"the object of the lease of {subject}, term {number}, cannot be read: {why}",
            f"Somebody changed it by hand. Take the lease: tsctl control take {subject}. If its holder still runs, it"
            " stops before its next change. Then: tsctl rollout resume MODEL",
        )
        self.number = number


@dataclass(frozen=True)
class Holder:
    """A process that holds leases.

    Args:
        by: the person and the machine, `user@host`, for people.
        machine: tells machines and their containers apart; equal only where process numbers are the same ones.
        pid, started_ticks: of the process on it.
        token: of this process alone, wherever it runs.
    """

    by: str
    machine: str
    pid: int
    started_ticks: int
    token: str

    def __str__(self) -> str:
        return f"{self.by} (process {self.pid})"


@dataclass(frozen=True)
class Term:
    """One term of a lease.

    Args:
        at: seconds since 1970 by the holder's clock, when the term began; for people.
        signs: of life so far; `sign_at`: when the last one was given, by the holder's clock.
        is_released: the holder has ended it.
    """

    number: int
    holder: Holder
    at: float
    signs: int = 0
    sign_at: float = 0.0
    is_released: bool = False

    @property
    def mark(self) -> tuple[int, int, bool]:
        """Changes with every sign of life."""
        return self.number, self.signs, self.is_released


class Process(StrEnum):
    """The holder's process, as the machine sees it that wants to know."""

    RUNS = "runs"
    GONE = "gone"
    UNKNOWN = "unknown"  # on another machine, or stopped


class Standing(StrEnum):
    """Whether a lease can be taken."""

    FREE = "free"
    HELD = "held"
    SILENT = "silent"  # the holder may be alive; nobody knows before TTL_S have passed without a sign


@dataclass(frozen=True)
class Watch:
    """A term as one machine has watched it.

    Args:
        term: as it was seen last; None: the subject never had one.
        since: when it was first seen with this number of signs, by this machine's monotonic clock.
        has_changed: a sign of life came while it was watched.
    """

    term: Term | None
    since: float
    has_changed: bool = False


def watched(before: Watch | None, term: Term | None, now: float) -> Watch:
    """The watch after one more look at the place."""
    if before is None or term is None:
        return Watch(term, now)
    if before.term is not None and before.term.mark == term.mark:
        return replace(before, term=term)
    is_sign = before.term is not None and before.term.number == term.number
    return Watch(term, now, has_changed=is_sign)


def standing(watch: Watch, process: Process, now: float, ttl_s: float = TTL_S) -> Standing:
    """Whether the lease can be taken now."""
    if watch.term is None or watch.term.is_released or process is Process.GONE:
        return Standing.FREE
    if now - watch.since >= ttl_s:
        return Standing.FREE
    return Standing.HELD if watch.has_changed or process is Process.RUNS else Standing.SILENT


def term_content(holder: Holder, at: float) -> bytes:
    """The object of a term."""
    return _json({"holder": asdict(holder), "at": round(at, 3)})


def sign_content(at: float, is_released: bool = False) -> bytes:
    """The object of a sign of life, or of the end of a term."""
    return _json({"at": round(at, 3), "released": is_released})


def read_term(subject: str, number: int, content: bytes, signs: int = 0, sign: bytes | None = None) -> Term:
    """The term of its objects.

    Args:
        signs: the number of the last sign of life; `sign`: its object, None where it is not known.

    Raises:
        DamagedLease: an object is no such thing.
    """
    try:
        fields, last = parse_json(content), parse_json(sign) if sign is not None else {}
        at, sign_at = float(fields["at"]), float(last.get("at", fields["at"]))
        if not (0 <= at < LATEST and 0 <= sign_at < LATEST):
            raise ValueError("its time is no time")
        holder = checked(Holder(**fields["holder"]))
        return Term(number, holder, at, signs, sign_at, bool(last.get("released", False)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedLease(subject, number, error) from None


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
