"""Requests that wait for a worker: bounded in number, in order of arrival. Pure; the caller brings the clock.

The next batch is what waits when a worker becomes idle, so no request waits for others to come.
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
    """Requests in order of arrival.

    Args:
        most: requests that may wait at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Waiting] = deque()
        self._gone = 0

    def __len__(self) -> int:
        return len(self._waiting) - self._gone

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
        while self._waiting and len(batch) < most:
            waiting = self._waiting.popleft()
            waiting.is_taken = True
            if waiting.is_gone:
                self._gone -= 1
            elif waiting.expires <= now:
                expired.append(waiting)
            else:
                batch.append(waiting)
        return batch, expired


def share(waiting: int, idle: int, batch_size: int) -> int:
    """How many requests the next idle worker takes: those that wait, divided among the idle workers."""
    return min(batch_size, -(-waiting // max(1, idle)))
