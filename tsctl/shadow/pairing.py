"""Pairs the answers of stable and of its shadow to one request, in bounded memory. Pure: the caller gives the time.

Invariant: each answer that came is in one pair, or waits, or is counted once by the reason why it has no partner.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Track(StrEnum):
    """The version that answered."""

    STABLE = "stable"
    SHADOW = "shadow"


class Unpaired(StrEnum):
    """Why an answer has no partner."""

    NO_SHADOW = "no shadow answer in time"
    NO_STABLE = "no stable answer in time"
    LATE = "its partner was given up before"
    DUPLICATE = "a second answer of one version"
    NO_ROOM = "too many answers waited"
    BUSY = "a version had no capacity (429, 503 or 504)"


#: Answers of a server without capacity: they say nothing of what the version predicts.
BUSY_STATUSES = (429, 503, 504)


@dataclass(frozen=True)
class Answer:
    """One version's answer to one request.

    Args:
        value: what the comparator compares, such as a JSON value or a record's summary of it.
        status: 200 for an answer, another for a problem.
        latency_ms: None where it is not known.
        at_s: when it was answered, in seconds since 1970; None where it is not known.
    """

    request_id: str
    track: Track
    value: Any = None
    status: int = 200
    latency_ms: float | None = None
    at_s: float | None = None


@dataclass(frozen=True)
class Pair:
    """Both answers to one request."""

    stable: Answer
    shadow: Answer


def paired_share(pairs: int, unpaired: Mapping[Unpaired, int]) -> float | None:
    """Pairs as a share of the requests with a pair or a lost answer; None where there is none.

    A second answer, and one that is late for its partner, are of a request that counts already.
    """
    lost = (Unpaired.NO_SHADOW, Unpaired.NO_STABLE, Unpaired.NO_ROOM, Unpaired.BUSY)
    alone = sum(unpaired.get(reason, 0) for reason in lost)
    return pairs / (pairs + alone) if pairs + alone else None


class Pairing:
    """Answers that wait for their partner.

    Args:
        wait_s: for which an answer waits.
        most: answers that wait at once, and identifiers of requests that are remembered to recognise duplicates and
            late answers. Where more wait, the one that waits longest is given up.
        on_unpaired: gets each answer without a partner, and the reason.

    Attributes:
        pairs: so far.
        unpaired: answers by reason.
    """

    def __init__(
        self,
        wait_s: float = 60.0,
        most: int = 100_000,
        on_unpaired: Callable[[Unpaired, Answer], None] = lambda reason, answer: None,
    ) -> None:
        if wait_s <= 0 or most < 1:
            raise ValueError(f"needs a time above 0 and room for one answer, found {wait_s} s and {most}")
        self.wait_s, self.most, self._on_unpaired = wait_s, most, on_unpaired
        self.pairs = 0
        self.unpaired: Counter[Unpaired] = Counter()
        self._waiting: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._remembered: OrderedDict[str, frozenset[Track]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Answers that wait now."""
        return len(self._waiting)

    @property
    def paired_share(self) -> float | None:
        """Pairs as a share of the requests whose answers no longer wait; None before the first."""
        return paired_share(self.pairs, self.unpaired)

    def add(self, answer: Answer, now_s: float) -> Pair | None:
        """The pair that the answer completes; None where it waits, or is counted as unpaired.

        Args:
            now_s: seconds of any clock that does not run backwards.
        """
        self.give_up(now_s)
        came = self._remembered.get(answer.request_id)
        if came is not None:
            self._remember(answer.request_id, came | {answer.track})
            self._count(answer, Unpaired.DUPLICATE if answer.track in came else Unpaired.LATE)
            return None
        if answer.request_id not in self._waiting:
            if len(self._waiting) >= self.most:
                _, (_, longest) = self._waiting.popitem(last=False)
                self._give_up(longest, Unpaired.NO_ROOM)
            self._waiting[answer.request_id] = now_s, answer
            return None
        _, first = self._waiting[answer.request_id]
        if first.track is answer.track:
            self._count(answer, Unpaired.DUPLICATE)
            return None
        del self._waiting[answer.request_id]
        self._remember(answer.request_id, frozenset(Track))
        self.pairs += 1
        return Pair(first, answer) if first.track is Track.STABLE else Pair(answer, first)

    def give_up(self, now_s: float) -> None:
        """Count the answers that have waited for `wait_s`; `add` does it too."""
        while self._waiting:
            came_s, answer = next(iter(self._waiting.values()))
            if now_s - came_s < self.wait_s:
                return
            del self._waiting[answer.request_id]
            self._give_up(answer, Unpaired.NO_SHADOW if answer.track is Track.STABLE else Unpaired.NO_STABLE)

    def _give_up(self, answer: Answer, reason: Unpaired) -> None:
        self._count(answer, reason)
        self._remember(answer.request_id, frozenset({answer.track}))

    def _count(self, answer: Answer, reason: Unpaired) -> None:
        self.unpaired[reason] += 1
        self._on_unpaired(reason, answer)

    def _remember(self, request_id: str, came: frozenset[Track]) -> None:
        """Remember which versions answered a request that no longer waits, in place of the one known longest."""
        self._remembered[request_id] = came
        self._remembered.move_to_end(request_id)
        if len(self._remembered) > self.most:
            self._remembered.popitem(last=False)
