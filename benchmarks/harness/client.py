"""Closed-loop clients that keep every answer: when the request was sent, when the answer came, its status and version.

wrk only counts; this client also says which request failed, and which version answered each user. It writes to raw
sockets, because a client of Python's library takes as much processor time per request as all that stands behind it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: Seconds that an answer may take before it counts as failed.
ANSWER_S = 30.0
FAILED = 0  # the status of a request without an answer


@dataclass(frozen=True)
class Address:
    """Where requests go, and what they carry beside their body."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request; moments are of time.perf_counter()."""

    asked: float
    came: float
    status: int
    version: str
    user: str = ""
    predicted: str = ""  # the class, where the handler's answer has one

    @property
    def took_ms(self) -> float:
        return (self.came - self.asked) * 1000


class Connection:
    """One connection that is kept open, and opened again after an error."""

    def __init__(self, address: Address) -> None:
        parts = urlsplit(address.url)
        self._place = (parts.hostname or "", parts.port or 80)
        lines = "".join(f"{name}: {value}\r\n" for name, value in address.headers.items())
        self._head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}"
        self._socket: socket.socket | None = None
        self._rest = b""

    def ask(self, body: bytes, headers: Mapping[str, str] | None = None, user: str = "") -> Answer:
        """Send a request and wait; an error on the way gives an answer of status FAILED."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        message = f"{self._head}{more}content-length: {len(body)}\r\n\r\n".encode() + body
        asked = time.perf_counter()
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._place, timeout=ANSWER_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(message)
            status, version, predicted = self._read(self._socket)
        except (OSError, ValueError):
            self.close()
            status, version, predicted = FAILED, "", ""
        return Answer(asked, time.perf_counter(), status, version, user, predicted)

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def _read(self, opened: socket.socket) -> tuple[int, str, str]:
        """Status, version and predicted class.

        Raises:
            ValueError: no HTTP/1.1 with a length.
        """
        read = self._rest
        while (end := read.find(b"\r\n\r\n")) < 0:
            read += _more(opened)
        head = read[:end].lower()
        length = int(_header(head, b"content-length") or b"x")
        while len(read) < end + 4 + length:
            read += _more(opened)
        self._rest = read[end + 4 + length :]
        if _header(head, b"connection") == b"close":
            self.close()
        version, predicted = (_header(head, name).decode() for name in (b"x-model-version", b"x-prediction-class"))
        return int(head[9:12]), version, predicted


class StreamConnection(Connection):
    """The same for streams of events: an answer came when its stream ended, and one that did not say [DONE] failed."""

    def _read(self, opened: socket.socket) -> tuple[int, str, str]:
        read = self._rest
        while (end := read.find(b"\r\n\r\n")) < 0:
            read += _more(opened)
        self._rest = read
        head = read[:end].lower()
        if b"chunked" not in _header(head, b"transfer-encoding"):
            return super()._read(opened)
        while not read.endswith(b"\r\n0\r\n\r\n"):  # one request at a time: nothing follows
            read += _more(opened)
        self._rest = b""
        status = int(head[9:12]) if b"data: [DONE]" in read else FAILED
        return status, _header(head, b"x-model-version").decode(), ""


@dataclass
class Load:
    """The answers that clients got so far."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def counts(self) -> Counter[tuple[int, str]]:
        """Number of answers by status and version."""
        return Counter((answer.status, answer.version) for answer in list(self.answers))


@contextmanager
def under_load(address: Address, body: bytes, connections: int) -> Iterator[Load]:
    """Clients send the body without a pause while the block runs; all are answered when it ends."""
    load, stop = Load(), threading.Event()

    def ask(_: int) -> None:
        connection = Connection(address)
        while not stop.is_set():
            load.answers.append(connection.ask(body))
        connection.close()

    with asking(ask, connections, stop):
        yield load


@contextmanager
def asking(ask: Callable[[int], None], clients: int, stop: threading.Event) -> Iterator[None]:
    """Runs `ask` in a thread for each client, with its number, while the block runs; `stop` tells it to return."""
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ask_all(address: Address, body: bytes, users: Sequence[str], header: str, connections: int) -> list[Answer]:
    """One request for each user, whose name is in the header, over `connections` connections at once."""

    def ask(first: int) -> list[Answer]:
        connection = Connection(address)
        answers = [connection.ask(body, {header: user}, user) for user in users[first::connections]]
        connection.close()
        return answers

    with ThreadPoolExecutor(connections) as pool:
        return [answer for answers in pool.map(ask, range(connections)) for answer in answers]


def _more(opened: socket.socket) -> bytes:
    read = opened.recv(65536)
    if not read:
        raise ConnectionResetError("the connection was closed before the answer was whole")
    return read


def _header(head: bytes, name: bytes) -> bytes:
    begin = head.find(b"\r\n" + name + b":")
    return b"" if begin < 0 else head[begin + len(name) + 3 :].split(b"\r\n", 1)[0].strip()
