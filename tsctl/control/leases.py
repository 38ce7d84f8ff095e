"""Takes, keeps and releases leases at a place, and watches those of others.

Below `lease/SUBJECT`, term 3 is the object `000003.json`, which stays, and its signs of life are `000003/000041.json`,
of which the last ones stay.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex

import psutil

from tsctl.control.lease import (
    SIGN_S,
    TTL_S,
    DamagedLease,
    Forgotten,
    Holder,
    Process,
    Standing,
    TakenOver,
    Term,
    Watch,
    read_term,
    sign_content,
    standing,
    term_content,
    watched,
)
from tsctl.control.place import AlreadyThere, Place, PlaceUnreachable, numbered
from tsctl.errors import ConflictError, TsctlError
from tsctl.host.person import person
from tsctl.host.process import ProcessIdentity, identify

_ROOT = "lease"
_NAME = re.compile(rf"{_ROOT}/([^/]+)/(\d+)(?:/(\d+))?\.json")
#: Between two looks at a lease that may be over.
POLL_S = 0.5
#: Signs of life that stay, so that a reader that has just listed them finds the last one.
KEPT_SIGNS = 3


@cache
def this_process() -> Holder:
    """This process as a holder."""
    mine = identify(os.getpid())
    return Holder(person(), _machine(), mine.pid, mine.started_ticks, token_hex(8))


def _machine() -> str:
    """This boot of this machine, and the name space of its process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def process_of(holder: Holder) -> Process:
    """The holder's process, as far as this machine knows it."""
    if holder.machine != _machine():
        return Process.UNKNOWN
    if not ProcessIdentity(holder.pid, holder.started_ticks).is_running:
        return Process.GONE
    with suppress(psutil.Error):
        if psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED:
            return Process.RUNS
    return Process.UNKNOWN


@dataclass
class Leases:
    """The leases at a place, as this process watches them.

    Args:
        clock: monotonic seconds; `now`: seconds since 1970.
        holder: this process.
    """

    place: Place
    holder: Holder = field(default_factory=this_process)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    ttl_s: float = TTL_S
    process_of: Callable[[Holder], Process] = process_of
    _watches: dict[str, Watch] = field(default_factory=dict)

    def subjects(self) -> list[str]:
        """Everything that ever had a lease."""
        found = (_NAME.fullmatch(name) for name in self.place.names(f"{_ROOT}/"))
        return sorted({match[1] for match in found if match})

    def last(self, subject: str) -> Term | None:
        """The last term; None where there was none. Raises PlaceUnreachable, PlaceUnusable and DamagedLease."""
        names = [match for name in self.place.names(f"{_ROOT}/{subject}/") if (match := _NAME.fullmatch(name))]
        number = max((int(match[2]) for match in names if match[3] is None), default=0)
        content = self.place.read(_term(subject, number)) if number else None
        if content is None:
            return None
        signs = max((int(match[3]) for match in names if match[3] and int(match[2]) == number), default=0)
        sign = self.place.read(_sign(subject, number, signs)) if signs else None
        return read_term(subject, number, content, signs, sign)

    def look(self, subject: str) -> tuple[Watch, Standing]:
        """The lease now, by this look and those before."""
        try:
            term = self.last(subject)
        except PlaceUnreachable:  # its holder may not reach the place either: silence meanwhile says nothing
            self._watches.pop(subject, None)
            raise
        now = self.clock()
        watch = self._watches[subject] = watched(self._watches.get(subject), term, now)
        process = Process.GONE if term is None else self.process_of(term.holder)
        return watch, standing(watch, process, now, self.ttl_s)

    def is_held(self, subject: str, note: Callable[[str], None] | None = None) -> bool:
        """Whether a process holds the lease, or may hold it.

        Args:
            note: gets what is waited for: where the holder is silent, look again until it gives a sign, or its term is
                over. None: a silent holder counts.
        """
        while True:
            watch, found = self.look(subject)
            if found is not Standing.SILENT or note is None:
                return found is not Standing.FREE
            self._wait(subject, watch, note)

    def _wait(self, subject: str, watch: Watch, note: Callable[[str], None]) -> None:
        """Some time, for a sign of life of a silent holder."""
        if watch.term is not None:
            left = max(0.0, self.ttl_s - (self.clock() - watch.since))
            note(f"{watch.term.holder} holds {subject} and is silent; its term is over in {left:.0f} s")
        self.sleep(POLL_S)

    def take(self, subject: str, note: Callable[[str], None] = lambda text: None, force: bool = False) -> Lease:
        """The lease, which is this process's now. A holder that is silent is waited for until its term is over.

        Args:
            note: gets what is waited for.
            force: take it although its holder may be alive, or is unknown because the term is damaged. The holder then
                changes nothing more.

        Raises:
            ConflictError: another process holds it, or was faster.
            PlaceUnreachable, PlaceUnusable, DamagedLease: as they say.
        """
        while True:
            try:
                watch, found = self.look(subject)
            except DamagedLease as error:
                if not force:
                    raise
                return self._begin(subject, error.number + 1)
            term = watch.term
            is_mine = term is not None and term.holder == self.holder  # taken in a call whose answer was lost
            if found is Standing.FREE or is_mine or force:
                break
            if found is Standing.HELD and term is not None:
                raise ConflictError(
                    f"{subject} is held by {term.holder} since {_when(term.at)}",
                    "Wait for it to end. If that process is surely dead: tsctl control take.",
                )
            self._wait(subject, watch, note)
        lease = self._begin(subject, term.number + 1 if term is not None else 1)
        if term is not None:
            lease.tidy(term.number, term.signs + 1)
        return lease

    def _begin(self, subject: str, number: int) -> Lease:
        """A new term, which replaces every one before it; raises ConflictError where another process was faster."""
        at = self.now()
        try:
            self.place.create(_term(subject, number), term_content(self.holder, at))
        except AlreadyThere:
            raise ConflictError(
                f"{subject} was taken by another process at this moment", "See 'tsctl control status'."
            ) from None
        return Lease(self.place, subject, Term(number, self.holder, at), self.now)


@dataclass
class Lease:
    """A term that this process has."""

    place: Place
    subject: str
    term: Term
    now: Callable[[], float] = time.time
    _signs: int = 0
    _lost: TakenOver | Forgotten | None = None

    def require(self) -> None:
        """This process has the last term.

        Raises:
            TakenOver: another one began the next term.
            Forgotten: the place had lost this term when the last sign of life was given.
            PlaceUnreachable, PlaceUnusable: that is not known.
        """
        if self._lost is None:
            number = self.term.number + 1
            content = self.place.read(_term(self.subject, number))
            if content is not None:
                self._lost = TakenOver(self.subject, _taker(self.subject, number, content))
        if self._lost is not None:
            raise self._lost

    def give_sign(self, is_last: bool = False) -> None:
        """One sign of life, or the end of the term.

        Raises:
            Forgotten: the place has lost this term.
            TakenOver, PlaceUnreachable, PlaceUnusable: as `require`.
        """
        self.require()
        if self.place.read(_term(self.subject, self.term.number)) is None:
            self._lost = Forgotten(self.place.address, self.subject)
            raise self._lost
        self._signs += 1
        with suppress(AlreadyThere):  # of an earlier try whose answer was lost
            self.place.create(_sign(self.subject, self.term.number, self._signs), sign_content(self.now(), is_last))
        self.tidy(self.term.number, self._signs - KEPT_SIGNS)

    def tidy(self, number: int, before: int) -> None:
        """Remove signs of a term, from the newest of those to the first that is missing already."""
        for sign in range(before, 0, -1):
            name = _sign(self.subject, number, sign)
            if sign < before and self.place.read(name) is None:
                break
            self.place.delete(name)

    @contextmanager
    def kept(self, every_s: float = SIGN_S) -> Iterator[Callable[[], None]]:
        """Give signs of life while the block runs, and release the lease behind it; the block gets `require`."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(every_s):
                try:
                    self.give_sign()
                except (TakenOver, Forgotten):
                    return
                except TsctlError:  # the place does not answer; the block meets the same error itself
                    continue

        thread = threading.Thread(target=keep, name=f"lease of {self.subject}", daemon=True)
        thread.start()
        try:
            yield self.require
        finally:
            ended.set()
            thread.join()
            with suppress(TsctlError):  # then its term ends by itself
                self.give_sign(is_last=True)


def _taker(subject: str, number: int, content: bytes) -> str:
    """The process that began the term, in words. A damaged term ends the one before it too."""
    try:
        term = read_term(subject, number, content)
    except DamagedLease:
        return "another process, whose object is damaged,"
    return f"{term.holder}, at {_when(term.at)} by its clock,"


def _term(subject: str, number: int) -> str:
    return numbered(f"{_ROOT}/{subject}", number)


def _sign(subject: str, number: int, sign: int) -> str:
    return numbered(f"{_ROOT}/{subject}/{number:06}", sign)


def _when(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
