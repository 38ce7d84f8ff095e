"""One request of a connection, from its first byte to its answer: what its headers say, its body, its place in a pool.

Invariant: the bytes of its body are held in the pool until it is answered or its client is gone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer, Item
from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.problems import WrongMethod, problem_answer
from handlers.contract import OPEN_INFERENCE_METADATA, PROTOCOL_HEADER, REQUEST_ID_HEADER, TIMEOUT_HEADER
from handlers.errors import PayloadTooLarge, RequestError, Unavailable
from handlers.messages import request_id_of

#: Bytes of a body that no worker gets; FastAPI's routes read none that is longer.
LONGEST_OTHER_BODY = 1 << 16
#: A part of a body that is shorter is put together with others: each on its own costs more than its bytes.
SHORT_PART = 1 << 12
#: Digits of a time that a client is willing to wait, and of a body's length.
LONGEST_TIMEOUT, LONGEST_LENGTH = 10, 18

_REQUEST_ID, _TIMEOUT = REQUEST_ID_HEADER.encode(), TIMEOUT_HEADER.encode()
_LENGTH, _PROTOCOL = b"content-length", PROTOCOL_HEADER.encode()
_READ = frozenset((_REQUEST_ID, _TIMEOUT, _LENGTH, _PROTOCOL))
#: Of the gateway's question for a model's metadata, which is the one GET that a worker answers.
_METADATA = OPEN_INFERENCE_METADATA.encode()


class Route(NamedTuple):
    """Where the predictions of one path are computed."""

    pool: Pool
    is_infer: bool  # of the Open Inference Protocol
    request_bytes: int  # the longest body

    def problem(self, error: RequestError, request_id: str) -> Answer:
        """The answer to a request of this path that no worker gets."""
        return problem_answer(error, request_id, self.pool.options.model, self.pool.options.version)


class Exchange:
    """One request; `connection` sends its answer.

    Args:
        connection: has `send(exchange, answer)`.
        request_id: for a client that names none.
    """

    __slots__ = (
        "_connection", "_held", "_parts", "_waiting", "error", "expects_continue", "headers", "is_sent", "is_whole",
        "keeps", "method", "path", "query", "request_id", "route", "wait_s",
    )  # fmt: skip

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._held = 0
        self._parts: list[bytes | bytearray] = []  # the first one is bytes
        self._waiting: Waiting | None = None
        self.error: RequestError | None = None  # found before it was whole; it is answered with this
        self.expects_continue = False  # its client waits to be asked for the body
        self.headers: list[tuple[bytes, bytes]] = []  # names in lower case
        self.is_sent = False  # its answer
        self.is_whole = False  # all of its body has come
        self.keeps = True  # the connection open after it
        self.method = ""
        self.path, self.query = "", b""  # of a request for FastAPI's routes
        self.request_id = ""
        self.route: Route | None = None  # None: it asks for no prediction
        self.wait_s = 0.0

    @property
    def body(self) -> bytes:
        """What has come of its body."""
        return bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)

    def begin(self, route: Route, request_id: str) -> None:
        """The headers of a prediction are here; a time that is no number is the worker's to refuse."""
        self.route = route
        wait_s = route.pool.options.response_s
        methods = ["POST", "OPTIONS"]
        for name, value in self.headers:
            if name in _READ:
                if name == _LENGTH:
                    if len(value) > LONGEST_LENGTH or int(value) > route.request_bytes:
                        self._refuse_length()
                elif name == _REQUEST_ID:
                    request_id = request_id_of({REQUEST_ID_HEADER: value.decode("latin-1")}, request_id) or request_id
                elif name == _PROTOCOL:
                    if value == _METADATA:
                        methods.append("GET")
                elif value.isdigit() and len(value) < LONGEST_TIMEOUT:
                    wait_s = min(wait_s, int(value) / 1000)
        self.request_id, self.wait_s = request_id, wait_s
        if self.method not in methods:
            self.error = WrongMethod("Use POST, or OPTIONS for the model's metadata.")

    def take(self, part: bytes) -> None:
        """A part of its body; sets `error` where it is too long, or there is no room for it."""
        if self.error is not None:
            return
        length = self._held + len(part)
        if self.route is None:
            if length > LONGEST_OTHER_BODY:
                self.error = PayloadTooLarge(f"A body of this path has at most {LONGEST_OTHER_BODY} bytes.")
        elif length > self.route.request_bytes:
            self._refuse_length()
        elif not self.route.pool.hold(len(part)):
            self.error = Unavailable("Too many bytes of requests wait; retry later.")
        if self.error is None:
            self._held = length
            last = self._parts[-1] if self._parts else None
            if isinstance(last, bytearray) and len(last) < SHORT_PART:
                last += part
            else:
                self._parts.append(bytearray(part) if self._parts and len(part) < SHORT_PART else part)
        else:
            self.release()

    def submit(self, now: float) -> None:
        """Have a worker compute it; OPTIONS asks for the model as its worker describes it.

        Raises:
            Unavailable: no worker will.
        """
        assert self.route is not None  # noqa: S101 - a prediction
        if self.method == "OPTIONS":
            self._connection.send(self, self.route.pool.describe())
            return
        item = Item(self.headers, self.body, self.request_id, self.route.is_infer)
        waiting = Waiting(item, now, now + self.wait_s, self.answer)
        self.route.pool.submit(waiting)
        self._waiting = waiting  # from here on the pool has it

    def answer(self, given: Answer) -> None:
        """Send the worker's answer, unless the client is gone."""
        if self._waiting is not None:
            self._waiting = None
            self._connection.send(self, given)

    def leave(self) -> None:
        """The client is gone."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self.route is not None:
            self.route.pool.leave(waiting)
        self.release()

    def release(self) -> None:
        """Its body is not needed any more."""
        if self.route is not None:
            self.route.pool.release(self._held)
        self._held = 0
        self._parts = []

    def _refuse_length(self) -> None:
        assert self.route is not None  # noqa: S101 - a prediction
        self.error = PayloadTooLarge(f"The body has more than {self.route.request_bytes} bytes.")
