"""One client's connection in HTTP/1.1: predictions go from the parser straight to the workers, other paths to FastAPI.

Invariant: a connection has one request at work; its answers leave in the order of its requests, each in one piece or in
the parts of its worker.
uvicorn makes one for every client, and ends it with `shutdown`. A prediction needs no task, no future and no message of
ASGI, because those cost more than all else that is done for it here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools

from handlers.adapters.asgi.asgi_call import Application, call
from handlers.adapters.asgi.exchange import Exchange, Target
from handlers.adapters.asgi.frames import Answer, Head, Headers, Part
from handlers.adapters.asgi.problems import HeadersTooLarge, TooSlow, Unreadable
from handlers.adapters.errors import WrongMethod
from handlers.contract import REQUEST_ID_HEADER
from handlers.errors import ModelFailed, RequestError
from handlers.log_lines import log_error

logger = logging.getLogger(__name__)

#: Bytes of a request's line and headers together, and of what is between two parts of its body or behind the last one.
LONGEST_HEAD = 1 << 16
#: Requests behind the one at work; a client with more is not read from, and its hanging up is not noticed meanwhile.
MOST_WAITING = 8
#: Bytes that are parsed before it is looked how many requests wait: the shortest ones in them are some hundred.
SLICE = 1 << 14
#: Seconds that a connection may be idle (the gateway closes its own after 60), and that a request may take to arrive.
IDLE_S, ARRIVAL_S = 75.0, 60.0
#: Seconds in which the rest of a refused body is read and thrown away: closing at once would take the answer back.
LINGER_S = 2.0
#: Bytes of an answer in parts that a client has not read, beside those in the kernel; one with more gets no end of it.
MOST_UNREAD = 1 << 18

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CODING, _HOST, _EXPECT = b"transfer-encoding", b"host", b"expect"
_CHECKED = frozenset((_CODING, _HOST, _EXPECT))
#: The characters that Envoy lets through in a host; it may be empty.
_HOST_VALUE = re.compile(rb"[A-Za-z0-9!$%&'()*+,\-.:;=@\[\]_~]*")
_ID, _CLOSE = f"\r\n{REQUEST_ID_HEADER}: ".encode(), b"\r\nconnection: close"
_CHUNKED = b"\r\ntransfer-encoding: chunked"


class Answering(Protocol):
    """What answers the requests of connections."""

    others: Application  # answers paths without a route

    def route(self, path: bytes, headers: Headers) -> Target | None:
        """Where the predictions of a path are computed; None: `others` answers, also where the client may not ask."""

    def next_id(self) -> str:
        """An id for a request that came without one."""

    def problem(self, error: RequestError, request_id: str) -> Answer:
        """The answer to a request without a route."""


class Connection(asyncio.Protocol):
    """One client.

    Args:
        answering: answers its requests.
        connections: of the server; this one is among them while it is open.
    """

    def __init__(self, answering: Answering, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._answering = answering
        self._connections = connections
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._unread = b""  # what came, and is parsed when fewer requests wait
        self._is_parsing = False
        self._url = b""
        self._host: bytes | None = None  # of the request that arrives
        self._last_host = b""  # which was found good
        self._fault: RequestError | None = None  # of the headers that arrive; no request follows
        self._head = 0  # bytes since the last request, its headers or a part of its body were whole
        self._since = loop.time()  # of the last answer, or of the first byte of the request that arrives
        self._arriving: Exchange | None = None
        self._at_work: Exchange | None = None
        self._waiting: deque[Exchange] = deque()  # whole, and behind the one at work
        self._task: asyncio.Task[None] | None = None  # of a request for FastAPI
        self._is_stepping = False
        self._is_ending = False  # no request follows the one at work
        self._is_full = False  # the client does not read its answers
        self._is_paused = False  # nothing is read from the client
        self._unsent = 0  # bytes of answers that the client had not read at the last sweep
        self._offers_upgrade = False  # the request whose headers are whole; it is read again without its offer
        self._refuses_upgrade = False  # the connection's request had such an offer, and is its last

    # ---- called by asyncio and by the server ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a socket's, also where uvloop made it
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_ending:
            self._unread += data
            self._read()

    def _read(self) -> None:
        """Parse what came while few requests wait; the client is read from where all of it is parsed."""
        if self._is_parsing:
            return
        self._is_parsing = True
        while self._unread and len(self._waiting) < MOST_WAITING and not self._is_ending:
            part, self._unread = self._unread[:SLICE], self._unread[SLICE:]
            self._parse(part)
        self._is_parsing = False
        is_full = len(self._waiting) >= MOST_WAITING
        if is_full != self._is_paused and not self._transport.is_closing():
            self._is_paused = is_full
            self._transport.pause_reading() if is_full else self._transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._offers_upgrade:
                self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._end(Unreadable("It breaks a rule of HTTP."))
        else:
            if self._head > LONGEST_HEAD and self._url and self._arriving is not None:
                self._end(HeadersTooLarge(f"Its headers have more than {LONGEST_HEAD} bytes."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for exchange in (self._at_work, self._arriving, *self._waiting):
            if exchange is not None:
                exchange.leave()
        if self._task is not None:
            self._task.cancel()
        self._waiting.clear()
        self._at_work = self._arriving = None

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._step()

    def shutdown(self) -> None:
        """End the connection; the request at work is answered first."""
        self._is_ending = True
        if self._at_work is None:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """End the connection where it was idle for too long, where its request does not arrive, or nobody reads."""
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, max(self._since, now)
        if unsent and now - self._since > IDLE_S:
            self._transport.abort()  # closing would wait for the client
        if self._at_work is not None or unsent:
            return
        if self._arriving is not None:
            if now - self._since > ARRIVAL_S:
                self._end(TooSlow("Its headers or its body did not arrive in time."))
        elif now - self._since > IDLE_S:
            self._transport.close()

    # ---- called by the parser ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._arriving = Exchange(self)
        self._url = b""
        self._host = self._fault = None
        self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._arriving
        if exchange is not None and not exchange.method:  # what stands behind a body is not read
            name = name.lower()
            if name in _CHECKED:
                self._check(exchange, name, value)
            exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange, parser = self._arriving, self._parser
        if exchange is None:
            return
        exchange.method = parser.get_method().decode("latin-1")
        if parser.should_upgrade() and exchange.method != "CONNECT":
            self._offers_upgrade = True
            return
        fault = self._fault or self._fault_of(parser.get_http_version())
        exchange.is_chunked = parser.get_http_version() != "1.0"
        exchange.keeps = (
            fault is None
            and parser.should_keep_alive()
            and exchange.is_chunked
            and not (parser.should_upgrade() or self._refuses_upgrade)
        )
        route = self._answering.route(self._url, exchange.headers)
        if route is None:
            exchange.path, exchange.query = _path_and_query(self._url)
            route = self._answering.route(exchange.path.encode(), exchange.headers)
        if route is not None:
            exchange.begin(route, self._answering.next_id())
        if self._head > LONGEST_HEAD and sum(len(n) + len(v) for n, v in exchange.headers) > LONGEST_HEAD:
            fault = HeadersTooLarge(f"Its headers have more than {LONGEST_HEAD} bytes.")
        self._head = 0
        exchange.error = fault or exchange.error
        if exchange.error is None:
            self._invite()
        elif exchange.expects_continue or not isinstance(exchange.error, WrongMethod):
            self._refuse(exchange)

    def on_body(self, body: bytes) -> None:
        exchange, self._head = self._arriving, 0
        if exchange is not None and exchange.error is None:
            exchange.expects_continue = False  # it did not wait
            exchange.take(body)
            if exchange.error is not None:
                self._refuse(exchange)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        exchange, self._arriving = self._arriving, None
        self._head = 0
        if exchange is None:
            return
        exchange.is_whole = True
        if exchange.is_sent:  # it was refused before it was whole
            self._transport.close()
            return
        self._waiting.append(exchange)
        self._step()

    def _check(self, exchange: Exchange, name: bytes, value: bytes) -> None:
        """Look at a header that says how the request is read; `_fault` is why it is not."""
        if name == _EXPECT:
            exchange.expects_continue = value.lower() == b"100-continue" and self._parser.get_http_version() != "1.0"
        elif name == _CODING:
            if value.lower() != b"chunked":
                self._fault = Unreadable("Of transfer codings, only 'chunked' is read.")
            elif self._parser.get_http_version() == "1.0":
                self._fault = Unreadable("HTTP/1.0 has no transfer codings.")
        elif self._host is not None:
            self._fault = Unreadable("It has the header Host twice.")
        elif value != self._last_host and _HOST_VALUE.fullmatch(value) is None:
            self._fault = Unreadable("Its header Host names no host.")
        else:
            self._host = self._last_host = value

    def _fault_of(self, version: str) -> RequestError | None:
        """Why a request of this version of HTTP is not read, all of whose headers are good by themselves."""
        if version not in ("1.1", "1.0"):
            return Unreadable("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        if version == "1.1" and self._host is None:
            return Unreadable("A request of HTTP/1.1 needs the header Host.")
        return None

    # ---- requests ------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, answer: Answer) -> None:
        """Send an answer to the request at work; the next one follows."""
        exchange.release()
        exchange.is_sent = True
        self._at_work = None
        if not exchange.is_whole or self._is_ending:
            exchange.keeps = False
        body, headers = answer.body, tuple(answer.headers)
        head = _head if exchange.route is not None else _make_head  # those of FastAPI's have ids, and are many
        self._transport.write(
            b"%b%d%b%b%b\r\n\r\n%b" % (
                head(answer.status, headers),
                len(body),
                _ID if exchange.request_id else b"",
                exchange.request_id.encode("latin-1", "replace"),
                b"" if exchange.keeps else _CLOSE,
                b"" if exchange.method == "HEAD" else body,
            )
        )  # fmt: skip
        self._follow(exchange)

    def send_part(self, exchange: Exchange, part: Part) -> None:
        """Send a part of the answer to the request at work; the next one follows the last part."""
        pieces = [self._begin(exchange, part.head)] if part.head is not None else []
        if not exchange.is_chunked:
            pieces.append(part.body)
        elif part.body:
            pieces += (b"%x\r\n" % len(part.body), part.body, b"\r\n")
        if part.is_last and exchange.is_chunked:
            pieces.append(b"0\r\n\r\n")
        self._transport.write(b"".join(pieces))
        if part.is_last:
            self._at_work = None
            exchange.keeps = exchange.keeps and not self._is_ending
            self._follow(exchange)
        elif self._transport.get_write_buffer_size() > MOST_UNREAD:
            logger.warning(
                "request %s: its client reads too slowly, and gets no more of the answer", exchange.request_id
            )
            self._transport.abort()  # `connection_lost` follows, and frees its place

    def _begin(self, exchange: Exchange, head: Head) -> bytes:
        """The head of an answer in parts."""
        exchange.release()
        exchange.is_sent = True
        exchange.keeps = exchange.keeps and not self._is_ending
        return b"%b%b%b%b%b\r\n\r\n" % (
            _part_head(head.status, tuple(head.headers)),
            _CHUNKED if exchange.is_chunked else b"",
            _ID if exchange.request_id else b"",
            exchange.request_id.encode("latin-1", "replace"),
            b"" if exchange.keeps else _CLOSE,
        )

    def _follow(self, exchange: Exchange) -> None:
        """An answer is sent: the next request follows, or the end of the connection."""
        if exchange.keeps:
            self._since = self._loop.time()
            self._step()
        elif exchange.is_whole:
            self._transport.close()
        else:
            self._loop.call_later(LINGER_S, self._transport.close)

    def _step(self) -> None:
        """Begin with the next request, where none is at work; reading goes on where few wait."""
        if self._is_stepping:
            return
        self._is_stepping = True
        while self._waiting and self._at_work is None and not self._is_full and not self._transport.is_closing():
            self._work(self._waiting.popleft())
        self._is_stepping = False
        if self._is_paused:
            self._read()
        self._invite()

    def _work(self, exchange: Exchange) -> None:
        self._at_work = exchange
        if exchange.error is None and exchange.route is None:
            self._task = self._loop.create_task(self._ask_routes(exchange))
            return
        try:
            if exchange.error is not None:
                raise exchange.error
            exchange.submit(self._loop.time())
        except RequestError as error:
            self.send(exchange, self._problem(exchange, error))

    def _invite(self) -> None:
        """Ask for the body of the request that arrives, where its client waits for that and no answer comes before."""
        exchange = self._arriving
        if exchange is None or not exchange.expects_continue or not exchange.method or exchange.error is not None:
            return
        if self._at_work is None and not self._waiting:
            exchange.expects_continue = False
            self._transport.write(_CONTINUE)

    def _problem(self, exchange: Exchange, error: RequestError) -> Answer:
        if exchange.route is None:
            return self._answering.problem(error, exchange.request_id)
        return exchange.problem(error)

    def _refuse(self, exchange: Exchange) -> None:
        """Answer a request at once whose body is not worth waiting for, unless others are before it."""
        exchange.release()
        if self._at_work is None and not self._waiting and isinstance(exchange.error, RequestError):
            self.send(exchange, self._problem(exchange, exchange.error))

    def _end(self, error: RequestError) -> None:
        """End a connection whose bytes cannot be read any further."""
        if self._at_work is None and not self._waiting and not self._transport.is_closing():
            exchange = self._arriving or Exchange(self)
            exchange.is_whole, exchange.keeps = True, False
            if exchange.is_sent:
                self._transport.close()
            else:
                self.send(exchange, self._problem(exchange, error))
        self._is_ending = True

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read a request again without its offer to speak another protocol, behind which the parser reads no body.

        Clients make such an offer with every request, and mean HTTP/1.1 where it is not taken up.
        """
        offered, version = self._arriving, self._parser.get_http_version()
        self._offers_upgrade, self._refuses_upgrade, self._head = False, True, 0
        if offered is None:
            return
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b: %b\r\n" % header for header in offered.headers if header[0] != b"upgrade"]
        start = b"%b %b HTTP/%b\r\n" % (offered.method.encode(), self._url, version.encode())
        self._unread = b"".join((start, *lines, b"\r\n", rest, self._unread))

    async def _ask_routes(self, exchange: Exchange) -> None:
        try:
            answer = await call(self._answering.others, exchange, self._transport)
        except Exception as error:  # noqa: BLE001 - a route's own mistake, and logged
            log_error(logger, [exchange.request_id], f"{exchange.method} {exchange.path} failed", error)
            answer = self._answering.problem(ModelFailed("The server failed on this request."), "")
        self._task = None
        self.send(exchange, answer)


def _path_and_query(url: bytes) -> tuple[str, bytes]:
    """The decoded path and the query of a request's target; the empty path where it has none."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return "", b""
    return unquote((parsed.path or b"/").decode("latin-1")), parsed.query or b""


def _make_head(status: int, headers: Headers) -> bytes:
    """The beginning of an answer, up to the number of its content-length."""
    return _make_part_head(status, headers) + b"\r\ncontent-length: "


def _make_part_head(status: int, headers: Headers) -> bytes:
    """The beginning of an answer in parts, whose length nobody knows."""
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    return b"\r\n".join([f"HTTP/1.1 {status} {phrase}".encode(), *(b"%b: %b" % header for header in headers)])


#: For answers of workers, whose headers repeat.
_head, _part_head = lru_cache(4096)(_make_head), lru_cache(256)(_make_part_head)
_STATUSES = frozenset(HTTPStatus)
