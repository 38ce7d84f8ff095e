"""Closed-loop clients that remember every answer: when it was asked for, when it came, its status and its version.

wrk counts; this tells which request failed, and which version a user met. Raw sockets, because a client of Python's
library takes as much processor time for a request as all that stands behind it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

#: How long an answer may take, in seconds, before it counts as failed.
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
    predicted: str = ""  # the class, where the handler tells one

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
        self._left = b""

    def ask(self, body: bytes, headers: Mapping[str, str] | None = None, user: str = "") -> Answer:
        """Send and wait; what fails on the way is an answer of status FAILED."""
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
        """The next request opens another one."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._left = None, b""

    def _read(self, opened: socket.socket) -> tuple[int, str, str]:
        """Status, version and predicted class.

        Raises:
            ValueError: no HTTP/1.1 with a length.
        """
        seen = self._left
        while (end := seen.find(b"\r\n\r\n")) < 0:
            seen += _more(opened)
        head = seen[:end].lower()
        length = int(_header(head, b"content-length") or b"x")
        while len(seen) < end + 4 + length:
            seen += _more(opened)
        self._left = seen[end + 4 + length :]
        if _header(head, b"connection") == b"close":
            self.close()
        version, predicted = (_header(head, name).decode() for name in (b"x-model-version", b"x-prediction-class"))
        return int(head[9:12]), version, predicted


@dataclass
class Load:
    """What clients met so far."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def counts(self) -> Counter[tuple[int, str]]:
        """How many answers came so far, by status and version."""
        return Counter((answer.status, answer.version) for answer in list(self.answers))


@contextmanager
def under_load(
    address: Address, body: bytes, connections: int, headers_of: Callable[[int], Mapping[str, str]] | None = None
) -> Iterator[Load]:
    """Requests without a pause while the block runs; all have their answers when it ends.

    Args:
        headers_of: more headers for the n-th request of a connection.
    """
    load, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        connection, turn = Connection(address), 0
        while not stop.is_set():
            load.answers.append(connection.ask(body, headers_of(turn) if headers_of else None))
            turn += 1
        connection.close()

    with asking(ask, connections, stop):
        yield load


@contextmanager
def asking(ask: Callable[[int], None], clients: int, stop: threading.Event) -> Iterator[None]:
    """`ask` runs once for each client, given its number, while the block runs; afterwards it is to stop, and has."""
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
    """One request for each user, by so many connections at once."""
    found: list[Answer] = []

    def ask(first: int) -> None:
        connection = Connection(address)
        for user in users[first::connections]:
            found.append(connection.ask(body, {header: user}, user))
        connection.close()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _more(opened: socket.socket) -> bytes:
    read = opened.recv(65536)
    if not read:
        raise ConnectionResetError("the connection was closed before the answer was whole")
    return read


def _header(head: bytes, name: bytes) -> bytes:
    begin = head.find(b"\r\n" + name + b":")
    return b"" if begin < 0 else head[begin + len(name) + 3 :].split(b"\r\n", 1)[0].strip()
