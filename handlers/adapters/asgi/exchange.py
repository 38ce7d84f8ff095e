"""One request of a connection, from its first byte to its answer: what its headers say, its body, its place in a pool.

Invariant: the bytes of its body are held in the pool until it is answered or its client is gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer, Headers, Item, Part
from handlers.adapters.asgi.problems import problem_answer
from handlers.adapters.asgi.workers import Workers
from handlers.adapters.errors import WrongMethod
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


class Target(Protocol):
    """Where the requests of one path go."""

    @property
    def protocol(self) -> str:
        """A value of PROTOCOL_HEADER, by the path; empty: as the request's own header says."""

    @property
    def request_bytes(self) -> int:
        """The longest body."""

    @property
    def methods(self) -> Sequence[str]:
        """That the path has."""

    def hold(self, count: int) -> bool:
        """Whether there is room for so many more bytes of bodies; they are to be released."""

    def release(self, count: int) -> None:
        """Bytes that were held before."""

    def problem(self, error: RequestError, request_id: str, protocol: str) -> Answer:
        """The answer to a request of this path that no worker gets."""

    def resolve(self, headers: Headers, body: bytes) -> Route:
        """Who computes the answer to a request that is whole.

        Raises:
            RequestError: nobody.
        """


class Route(NamedTuple):
    """Where the predictions of one path are computed."""

    pool: Workers
    protocol: str  # a value of PROTOCOL_HEADER, by the path; empty: as the request's own header says
    request_bytes: int  # the longest body

    @property
    def methods(self) -> Sequence[str]:
        """That the path has."""
        return ("POST", "OPTIONS")

    def hold(self, count: int) -> bool:
        """As of the pool."""
        return self.pool.hold(count)

    def release(self, count: int) -> None:
        """As of the pool."""
        self.pool.release(count)

    def problem(self, error: RequestError, request_id: str, protocol: str) -> Answer:
        """The answer to a request of this path that no worker gets."""
        return problem_answer(error, request_id, self.pool.options.model, self.pool.options.version, protocol)

    def resolve(self, headers: Headers, body: bytes) -> Route:
        """The path names who computes."""
        return self


class Exchange:
    """One request; `connection` sends its answer.

    Args:
        connection: has `send(exchange, answer)` and `send_part(exchange, part)`.
        request_id: for a client that names none.
    """

    __slots__ = (
        "_computing", "_connection", "_held", "_parts", "_waiting", "error", "expects_continue", "headers",
        "is_chunked", "is_sent", "is_whole", "keeps", "method", "path", "protocol", "query", "request_id", "route",
        "wait_s",
    )  # fmt: skip

    def __init__(self, connection: Any) -> None:
        self._computing: Workers | None = None  # has the request
        self._connection = connection
        self._held = 0
        self._parts: list[bytes | bytearray] = []  # the first one is bytes
        self._waiting: Waiting | None = None
        self.error: RequestError | None = None  # found before it was whole; it is answered with this
        self.expects_continue = False  # its client waits to be asked for the body
        self.headers: list[tuple[bytes, bytes]] = []  # names in lower case
        self.is_chunked = True  # an answer in parts; False for a client that reads none such
        self.is_sent = False  # its answer, or the head of one in parts
        self.is_whole = False  # all of its body has come
        self.keeps = True  # the connection open after it
        self.method = ""
        self.path, self.query = "", b""  # of a request for FastAPI's routes
        self.protocol = ""  # a value of PROTOCOL_HEADER
        self.request_id = ""
        self.route: Target | None = None  # None: it asks for no prediction
        self.wait_s = math.inf  # its client waits so long

    @property
    def body(self) -> bytes:
        """What has come of its body."""
        return bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)

    def begin(self, route: Target, request_id: str) -> None:
        """The headers of a prediction are here; a time that is no number is the worker's to refuse."""
        self.route = route
        self.protocol = route.protocol
        wait_s = math.inf
        methods = [*route.methods]
        for name, value in self.headers:
            if name in _READ:
                if name == _LENGTH:
                    if len(value) > LONGEST_LENGTH or int(value) > route.request_bytes:
                        self._refuse_length()
                elif name == _REQUEST_ID:
                    request_id = request_id_of({REQUEST_ID_HEADER: value.decode("latin-1")}, request_id) or request_id
                elif name == _PROTOCOL:
                    self.protocol = self.protocol or value.decode("latin-1")
                    if value == _METADATA:
                        methods.append("GET")
                elif value.isdigit() and len(value) < LONGEST_TIMEOUT:
                    wait_s = min(wait_s, int(value) / 1000)
        self.request_id, self.wait_s = request_id, wait_s
        if self.method not in methods:
            is_described = "OPTIONS" in methods
            self.error = WrongMethod("Use POST, or OPTIONS for the model's metadata." if is_described else "Use POST.")

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
        elif not self.route.hold(len(part)):
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
            RequestError: no worker will.
        """
        assert self.route is not None  # noqa: S101 - a prediction
        body = self.body
        route = self.route.resolve(self.headers, body)
        pool = route.pool
        if self.method == "OPTIONS":
            self._connection.send(self, pool.describe())
            return
        item = Item(self.headers, body, self.request_id, route.protocol)
        expires = now + min(self.wait_s, pool.options.response_s)
        waiting = Waiting(item, now, expires, self.answer, self.part)
        pool.submit(waiting)
        self._waiting, self._computing = waiting, pool  # from here on the pool has it

    def answer(self, given: Answer) -> None:
        """Send the worker's answer, unless the client is gone."""
        if self._waiting is not None:
            self._waiting = None
            self._connection.send(self, given)

    def part(self, part: Part) -> None:
        """Send a part of the worker's answer, unless the client is gone."""
        if self._waiting is not None:
            if part.is_last:
                self._waiting = None
            self._connection.send_part(self, part)

    def problem(self, error: RequestError) -> Answer:
        """The answer to this request for a prediction, which no worker gets."""
        assert self.route is not None  # noqa: S101 - a prediction
        return self.route.problem(error, self.request_id, self.protocol)

    def leave(self) -> None:
        """The client is gone."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._computing is not None:
            self._computing.leave(waiting)
        self.release()

    def release(self) -> None:
        """Its body is not needed any more."""
        if self.route is not None:
            self.route.release(self._held)
        self._held = 0
        self._parts = []

    def _refuse_length(self) -> None:
        assert self.route is not None  # noqa: S101 - a prediction
        self.error = PayloadTooLarge(f"The body has more than {self.route.request_bytes} bytes.")
