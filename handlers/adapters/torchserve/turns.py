"""Text through TorchServe's continuous batching: the node asks again and again, each time with all requests in hand.

A turn is one message of the node and one answer to it. The message lists every request that the node waits for; one
that is missing has a client who left. The answer has what came for some of them since the last turn, and may have
nothing. Meanwhile the worker's own thread computes on, so a turn costs no token.

Invariants, each of which TorchServe punishes by ending the worker: an answer names only requests of its turn, each at
most once, and never one again whose last part it had.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from handlers.adapters.torchserve.wire import Item, head, predicted
from handlers.contract import SILENT_S
from handlers.messages import Head, Part, Request, phrase_of
from handlers.worker.text import TextWorker

logger = logging.getLogger(__name__)

#: Seconds until a turn ends in which nothing came: only between two turns does the node give the worker new requests.
TURN_S = 0.02
_NEXT = "ts_stream_next"


class Turned(NamedTuple):
    """What one turn gives to one request."""

    head: Head | None  # with the first part
    body: bytes
    has_more: bool | None  # of an answer in parts; None: this is all of the answer


def encode_turn(turned: Iterable[tuple[str, Turned]]) -> bytes:
    """A predict response with status 200, as TorchServe's continuous batching reads it: a part for some requests.

    The header `ts_stream_next` says whether more follows. TorchServe closes the client's connection before the body of
    an answer that has it and a status of 400 or more, so an error is always one piece.
    """
    parts = []
    for request_id, (begin, body, has_more) in turned:
        next_header = () if has_more is None else ((_NEXT, "true" if has_more else "false"),)
        status, media_type, headers = (
            (200, "", ()) if begin is None else (begin.status, begin.media_type, begin.headers)
        )
        typed = (("content-type", media_type),) if media_type else ()
        written = head(media_type, status, phrase_of(status), (*typed, *headers, *next_header))
        parts.append((request_id, written, body))
    return predicted(parts)


@dataclass(slots=True)
class _Answer:
    """What came for one request, and has not gone to the node."""

    head: Head | None = None
    body: list[bytes] = field(default_factory=list)
    is_last: bool = False
    has_begun: bool = False  # the node has the head

    def take(self) -> Turned | None:
        """What goes to the node now."""
        if self.head is None and not self.body and not self.is_last:
            return None
        head, body = self.head, b"".join(self.body)
        is_whole = self.is_last and not self.has_begun
        self.head, self.body, self.has_begun = None, [], True
        return Turned(head, body, None if is_whole else not self.is_last)


class Turns:
    """The requests in hand of one worker.

    Args:
        read: an item of the node as a request.
        end: ends the process of a worker that hangs.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        worker: TextWorker,
        read: Callable[[Item], Request],
        end: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._read = read
        self._end = end
        self._came = threading.Condition()
        self._in_hand: dict[str, _Answer] = {}  # by the node's id of the request
        self._clock = clock
        self._gave_at = clock()  # a part, or got a request when it had none
        self._has_news = False
        worker.deliver = self._deliver

    def respond(self, batch: Sequence[Item]) -> bytes:
        """The answer to one turn."""
        self._begin(batch)
        with self._came:
            self._came.wait_for(lambda: self._has_news, TURN_S)
            self._has_news = False
            turned = [(item.request_id, part) for item in batch if (part := self._in_hand[item.request_id].take())]
            for request_id, part in turned:
                if not part.has_more:
                    del self._in_hand[request_id]
        self._check()
        return encode_turn(turned)

    def _begin(self, batch: Sequence[Item]) -> None:
        """Give the worker what is new, and take from it what nobody waits for any more."""
        listed = {item.request_id for item in batch}
        with self._came:
            if not self._in_hand:
                self._gave_at = self._clock()
            gone = [request_id for request_id in self._in_hand if request_id not in listed]
            new = [item for item in batch if item.request_id not in self._in_hand]
            for request_id in gone:
                del self._in_hand[request_id]
            for item in new:
                self._in_hand[item.request_id] = _Answer()
        for request_id in gone:
            self._worker.cancel(request_id)
        for item in new:
            self._worker.submit(item.request_id, self._read(item))

    def _deliver(self, parts: Sequence[Part]) -> None:
        with self._came:
            self._gave_at = self._clock()
            for part in parts:
                answer = self._in_hand.get(part.ticket)
                if answer is None:
                    continue  # its client is gone
                answer.head = part.head or answer.head
                if part.body:
                    answer.body.append(part.body)
                answer.is_last = part.is_last
                self._has_news = True
            self._came.notify()

    def _check(self) -> None:
        """End a worker that hangs, so that the node tells its clients and starts another one."""
        silent_s = self._clock() - self._gave_at
        if self._in_hand and silent_s > self._worker.config.response_timeout_s + SILENT_S:
            logger.critical("%d requests, and no token for %.0f s: this worker ends", len(self._in_hand), silent_s)
            self._end(1)
