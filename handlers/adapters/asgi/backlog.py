"""Requests that wait for a worker: bounded in number, in order of arrival or length. Pure; the caller has the clock.

The next batch is what waits when a worker becomes idle, so no request waits for others to come.

Where a batch is padded to its longest item, requests of like lengths belong together. They are ordered by the bytes of
their bodies in rounds. A round begins when the last one is handed out, and has the oldest requests that wait then, up
to a bound; all others are of a later round. So no request is overtaken by more than one round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from handlers.adapters.asgi.frames import Answer, Item, Part


@dataclass(slots=True, eq=False)
class Waiting:
    """One request between its arrival and its answer."""

    item: Item
    arrived: float  # seconds of the caller's clock
    expires: float
    answer: Callable[[Answer], None]
    part: Callable[[Part], None] | None = None  # takes the parts of an answer that comes in several; None: none may
    leave: Callable[[], None] | None = None  # takes it from the worker that generates its answer
    answers: int = 1  # that it asks for, of a model that generates text
    is_taken: bool = False  # a worker has it
    is_gone: bool = False  # the client hung up before
    is_begun: bool = False  # the head of its answer is with the client


class Backlog:
    """Requests that wait, and the next batch of them.

    Args:
        most: requests that may wait at a time.
    """

    def __init__(self, most: int) -> None:
        #: Requests of a round, whose order is that of their lengths; 1: the order is that of arrival.
        self.most_in_round = 1
        self._most = most
        self._waiting: deque[Waiting] = deque()
        self._round: deque[Waiting] = deque()
        self._is_rising = True  # the round begins with its shortest request
        self._gone = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._round) - self._gone

    def add(self, waiting: Waiting) -> bool:
        """Whether there was room for it."""
        if len(self) >= self._most:
            return False
        self._waiting.append(waiting)
        return True

    def leave(self, waiting: Waiting) -> None:
        """The client hung up; the request is not computed, unless a worker has it already."""
        if not (waiting.is_gone or waiting.is_taken):
            waiting.is_gone = True
            self._gone += 1

    def take(self, most: int, now: float) -> tuple[list[Waiting], list[Waiting]]:
        """The next `most` requests at most, and those before them that have expired."""
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        while len(batch) < most:
            if not self._round and self.most_in_round > 1:
                self._begin_round()
            queue = self._round or self._waiting
            if not queue:
                break
            waiting = queue.popleft()
            waiting.is_taken = True
            if waiting.is_gone:
                self._gone -= 1
            elif waiting.expires <= now:
                expired.append(waiting)
            else:
                batch.append(waiting)
        return batch, expired

    def _begin_round(self) -> None:
        """Every second round begins with its longest request, beside which the last one of the round before fits."""
        oldest = [self._waiting.popleft() for _ in range(min(self.most_in_round, len(self._waiting)))]
        oldest.sort(key=lambda waiting: len(waiting.item.body), reverse=not self._is_rising)
        self._round.extend(oldest)
        self._is_rising = not self._is_rising


def share(waiting: int, idle: int, batch_size: int) -> int:
    """How many requests the next idle worker takes: those that wait, divided among the idle workers."""
    return min(batch_size, -(-waiting // max(1, idle)))
