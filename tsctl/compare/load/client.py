"""Sends recorded requests over kept-open connections, as a closed or as an open loop, and notes when each was answered.

A program of its own, so that its processor time is known: `python -I -m tsctl.compare.load.client` reads an order from
standard input and writes what it noted to standard output (see order.py). One thread waits with epoll, because every
other client of Python's libraries takes as much processor time for a request as a server does.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import select
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import cycle

from handlers.contract import HEADER_LENGTH_HEADER
from tsctl.compare.load.order import LOST, Noted, Order, read_order, write_noted

_BLOCK = 1 << 18
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
#: The socket cannot go on now.
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Files beside connections: streams, the epoll and what Python itself has open.
_OTHER_FILES = 64
#: Seconds in which a connection must be open once the load has begun: nothing is sent meanwhile. For as long after one
#: that was not, no further one is tried.
_OPENING_S = 3.0
#: Milliseconds are all that epoll's own timeout can express.
_LONGEST_WAIT_S = 0.5


class _Connection:
    """One connection, and the request that waits for its answer."""

    __slots__ = ("intended", "is_busy", "read", "sent", "socket", "unsent")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.is_busy = False
        self.intended = self.sent = 0.0
        self.read = b""
        self.unsent: memoryview | None = None


class Client:
    """Runs one order.

    Args:
        send_times: when requests are meant to be sent, in seconds after the begin; None: a closed loop, in which every
            connection sends its next request when it has its answer.
    """

    def __init__(self, order: Order, requests: Sequence[bytes], send_times: Sequence[float] | None) -> None:
        self._order = order
        self._place = (order.host, order.port)
        self._next: Iterator[bytes] = cycle(requests)
        self._send_times = send_times
        self._tls = None if order.trusted is None else _tls(order.trusted)
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._overdue: deque[float] = deque()  # intended times of requests for which no connection is free
        self._noted = Noted.empty()
        self._end = 0.0
        self._opens_from = 0.0  # no connection is opened before this moment
        self._parent = os.getppid()
        self._is_stopped = False

    def stop(self) -> None:
        """Send nothing more; what is under way is still waited for."""
        self._is_stopped = True
        self._end = 0.0

    def run(self) -> Noted:
        """Send until the order's time is over, and wait for the answers that are still on their way.

        Raises:
            OSError: no connection can be opened at the begin.
        """
        for _ in range(self._order.connections):  # now, because opening one stops the loop until the server accepts
            self._idle.append(self._open())
        gc.disable()
        noted = self._noted
        noted.begin = begin = time.perf_counter()
        cpu = time.process_time()
        self._end = 0.0 if self._is_stopped else begin + self._order.seconds
        if self._send_times is None:
            self._run_closed()
        else:
            self._run_open(begin, self._send_times)
        noted.cpu_s = time.process_time() - cpu
        noted.wall_s = time.perf_counter() - begin
        self._drain()
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()
        return noted

    def _run_closed(self) -> None:
        while self._idle:
            self._send(self._idle.popleft(), time.perf_counter())
        while (now := time.perf_counter()) < self._end:
            self._answered(self._end - now)
            while self._idle:
                self._send(self._idle.popleft(), time.perf_counter())

    def _run_open(self, begin: float, send_times: Sequence[float]) -> None:
        overdue, idle = self._overdue, self._idle
        position, count = 0, len(send_times)
        while True:
            now = time.perf_counter()
            while position < count and begin + send_times[position] <= now:
                overdue.append(begin + send_times[position])
                position += 1
            while overdue and (idle or len(self._connections) < self._order.connections):
                self._send_open(overdue.popleft())
            if position == count:
                return
            if self._is_stopped or os.getppid() != self._parent:  # or its parent was killed, and nobody reads the end
                overdue.clear()
                return
            self._answered(begin + send_times[position] - time.perf_counter())

    def _send_open(self, intended: float) -> None:
        """Send the next request of an open loop; where no connection can be opened, it is lost."""
        begin = time.perf_counter()
        if self._idle:
            self._send(self._idle.pop(), intended)
            return
        try:
            if begin < self._opens_from:
                raise ConnectionError
            connection = self._open(_OPENING_S)
        except OSError as error:
            now = time.perf_counter()
            if isinstance(error, TimeoutError):
                self._opens_from = now + _OPENING_S
            next(self._next)
            self._noted.add(intended, begin, now, LOST, False)
            return
        self._send(connection, intended)

    def _drain(self) -> None:
        """Take the answers to what was sent; what is not answered in time is lost, and so is what waits to be sent."""
        last = time.perf_counter() + self._order.drain_s
        while (now := time.perf_counter()) < last and any(c.is_busy for c in self._connections.values()):
            self._answered(last - now)
            while self._overdue and self._idle:
                self._send(self._idle.pop(), self._overdue.popleft())
        now = time.perf_counter()
        for connection in self._connections.values():
            if connection.is_busy:
                self._noted.add(connection.intended, connection.sent, now, LOST, False)
        for intended in self._overdue:
            self._noted.add(intended, now, now, LOST, False)

    def _answered(self, wait_s: float) -> None:
        """Take the answers that are there, and wait for one where there is none."""
        if wait_s > 0:
            # of a lone file, select is exact to microseconds, where epoll rounds up to a millisecond
            select.select([self._poll], [], [], min(wait_s, _LONGEST_WAIT_S))
        for descriptor, event in self._poll.poll(0):
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            if connection.unsent is not None and event & _WRITE:
                self._send_rest(connection)
            if event & ~_WRITE:
                self._receive(connection)

    def _open(self, most_s: float = math.inf) -> _Connection:
        opened = socket.create_connection(self._place, timeout=min(self._order.drain_s, most_s))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            opened = self._tls.wrap_socket(opened, server_hostname=self._order.host)
        opened.setblocking(False)
        connection = _Connection(opened)
        self._connections[opened.fileno()] = connection
        self._poll.register(opened.fileno(), _READ)
        return connection

    def _send(self, connection: _Connection, intended: float) -> None:
        request = next(self._next)
        connection.is_busy = True
        connection.intended, connection.sent = intended, time.perf_counter()
        try:
            written = connection.socket.send(request)
        except _LATER:
            written = 0
        except OSError:
            self._lose(connection)
            return
        if written < len(request):
            connection.unsent = memoryview(request)[written:]
            self._poll.modify(connection.socket.fileno(), _READ | _WRITE)

    def _send_rest(self, connection: _Connection) -> None:
        rest = connection.unsent or memoryview(b"")
        try:
            rest = rest[connection.socket.send(rest) :]
        except _LATER:
            return
        except OSError:
            self._lose(connection)
            return
        connection.unsent = rest or None
        if connection.unsent is None:
            self._poll.modify(connection.socket.fileno(), _READ)

    def _receive(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(_BLOCK)
        except _LATER:
            return
        except OSError:
            received = b""
        if not received:
            self._lose(connection)
            return
        connection.read = read = connection.read + received if connection.read else received
        head_end = read.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = read[:head_end].lower()
        if not is_whole(head, read, head_end + 4):
            return
        connection.read = b""
        connection.is_busy = False
        status, retries = int(head[9:12]), b"\r\nretry-after:" in head
        if self._order.is_enveloped and status == 200:
            status, retries = status_inside(head, read[head_end + 4 :])
        self._noted.add(connection.intended, connection.sent, time.perf_counter(), status, retries)
        if b"\r\nconnection: close" in head:
            self._close(connection)
        elif self._send_times is not None:
            self._idle.append(connection)
        elif (now := time.perf_counter()) < self._end:
            self._send(connection, now)

    def _lose(self, connection: _Connection) -> None:
        """The connection broke, with or without a request; another takes its place in a closed loop."""
        if connection.is_busy:
            self._noted.add(connection.intended, connection.sent, time.perf_counter(), LOST, False)
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()  # which takes it out of the epoll
        connection.is_busy = False
        if connection in self._idle:
            self._idle.remove(connection)
        if self._send_times is None and time.perf_counter() < self._end:
            try:
                self._idle.append(self._open())
            except OSError:
                now = time.perf_counter()
                self._noted.add(now, now, now, LOST, False)
                time.sleep(0.01)  # a server that accepts nothing is asked a hundred times a second


def _tls(trusted: str) -> ssl.SSLContext:
    """What a connection asks of the server's certificate, as `trusted` of an Order says."""
    if not trusted:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself, and not who signed it
        context.load_verify_locations(trusted)
    context.set_alpn_protocols(["http/1.1"])
    return context


def is_whole(head: bytes, read: bytes, begin: int) -> bool:
    """Whether the answer is complete, by its length or its last chunk.

    Args:
        head: status line and headers in lower case.
        begin: of the body in `read`.
    """
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        end = head.find(b"\r\n", at + 17)
        return len(read) - begin >= int(head[at + 17 : end if end >= 0 else None])
    if b"\r\ntransfer-encoding:" in head:
        return read.endswith(b"0\r\n\r\n")
    return True


def status_inside(head: bytes, body: bytes) -> tuple[int, bool]:
    """Status of the answer in Triton's envelope, and whether it has retry-after; 200 where Triton sent no envelope."""
    name = b"\r\n" + HEADER_LENGTH_HEADER.encode() + b":"
    at = head.find(name)
    if at < 0:
        return 200, False
    end = head.find(b"\r\n", at + len(name))
    inner = body[int(head[at + len(name) : end if end >= 0 else None]) :]
    lines = inner[: inner.find(b"\n\n")]
    return int(lines[:3]), b"\nretry-after:" in lines.lower()


def main() -> None:
    """Run the order on standard input."""
    order, requests, send_times = read_order(sys.stdin.buffer)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = order.connections + _OTHER_FILES
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    client = Client(order, requests, send_times)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: client.stop())
    try:
        noted = client.run()
    except OSError as error:  # of the first connection: the caller prints it
        sys.exit(error.strerror or str(error))
    write_noted(noted, sys.stdout.buffer)


if __name__ == "__main__":
    main()
