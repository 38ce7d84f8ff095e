"""A worker process that generates text: it has many requests at a time, and answers each in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import PARTS, Answer, MalformedFrame, Part, cancel_frame, read_parts, submit_frame
from handlers.adapters.asgi.worker_process import Events, WorkerProcess


class TextProcess(WorkerProcess):
    """Gets a request where it has a place.

    Args:
        places: answers that it may have in hand.
        silent_s: seconds in which a worker that has requests gives a part; one that gives none is killed.
    """

    def __init__(self, number: int, places: int, silent_s: float, events: Events) -> None:
        super().__init__(number, silent_s, events)
        self._places = places
        self._tickets = count(1)
        self._in_hand: dict[int, Waiting] = {}  # by ticket
        self._taken = 0  # places

    @property
    def is_busy(self) -> bool:
        return bool(self._in_hand)

    @property
    def free_places(self) -> int:
        """Answers that it may be asked for now."""
        return self._places - self._taken if self.is_ready and not self.is_retiring else 0

    def submit(self, waiting: Waiting) -> Callable[[], None]:
        """Give the worker a request; what is returned cancels it, and does nothing where it is answered."""
        if not self._in_hand:
            self.watch()
        ticket = next(self._tickets)
        waiting.is_taken = True
        self._in_hand[ticket] = waiting
        self._taken += waiting.answers
        self.write(submit_frame(ticket, waiting.item))
        return partial(self._cancel, ticket)

    def _cancel(self, ticket: int) -> None:
        if (waiting := self._in_hand.pop(ticket, None)) is not None:
            self._taken -= waiting.answers
            self.write(cancel_frame(ticket))
            self._rest()

    def give_back(self) -> Sequence[Waiting]:
        held, self._in_hand, self._taken = list(self._in_hand.values()), {}, 0
        return held

    def take(self, kind: bytes, content: bytes) -> None:
        if kind != PARTS:
            raise MalformedFrame(f"a message of kind {kind!r}")
        self.watch()
        for part in read_parts(content):
            waiting = self._in_hand.get(part.ticket)
            if waiting is None:  # its client is gone
                continue
            if part.is_last:
                del self._in_hand[part.ticket]
                self._taken -= waiting.answers
            self._give(waiting, part)
        self._rest()

    def _give(self, waiting: Waiting, part: Part) -> None:
        if (part.head is None) is not waiting.is_begun:
            raise MalformedFrame("an answer has no beginning, or two")
        waiting.is_begun = True
        if part.head is not None and part.is_last:
            waiting.answer(Answer(*part.head, part.body))
        elif waiting.part is not None:
            waiting.part(part)

    def _rest(self) -> None:
        """Where it has no request, it may be silent, or end."""
        if not self._in_hand:
            self.stop_watching()
            if self.is_retiring:
                self.close()
