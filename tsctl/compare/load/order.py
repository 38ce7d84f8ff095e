"""The order that the load client reads, and the columns that it writes: what both sides of the pipe agree on.

Moments are of time.perf_counter() in the client's process.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

#: The status of a request without an answer.
LOST = 0
_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Order:
    """Where requests go, for how long, over how many connections.

    Args:
        connections: that are open from the begin; in an open loop a request waits where none is free.
        seconds: until the last request is sent.
        is_enveloped: as in an Endpoint.
        drain_s: how long the answers are waited for afterwards.
        trusted: None: without TLS. Empty: with TLS, the server's name must be in a certificate that the system trusts;
            else a file with the certificate that the server must have, whatever name is in it.
    """

    host: str
    port: int
    connections: int
    seconds: float
    is_enveloped: bool = False
    drain_s: float = 10.0
    trusted: str | None = None


@dataclass
class Noted:
    """One entry in each column for every request, in the order of the answers."""

    intended: array[float]  # when it was to be sent; in a closed loop when it was sent
    sent: array[float]
    came: array[float]  # when it was answered, or given up
    status: array[int]
    retry_after: array[int]  # 1 where the answer had this header
    begin: float = 0.0
    wall_s: float = 0.0  # from the begin until the last request was sent
    cpu_s: float = 0.0  # processor time of the client meanwhile

    @classmethod
    def empty(cls) -> Noted:
        return cls(array("d"), array("d"), array("d"), array("h"), array("b"))

    @property
    def columns(self) -> tuple[array[Any], ...]:
        """All columns, in the order in which they are written."""
        return self.intended, self.sent, self.came, self.status, self.retry_after

    def add(self, intended: float, sent: float, came: float, status: int, has_retry_after: bool) -> None:
        """One request that was answered or lost."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.came.append(came)
        self.status.append(status)
        self.retry_after.append(has_retry_after)


def write_order(order: Order, requests: Sequence[bytes], send_times: Sequence[float] | None) -> bytes:
    """The order as bytes; `read_order` reads it."""
    head = {**asdict(order), "requests": [len(request) for request in requests], "is_open": send_times is not None}
    times = array("d", send_times or ()).tobytes()
    return b"".join([_framed(json.dumps(head).encode()), *requests, _framed(times)])


def read_order(stream: BinaryIO) -> tuple[Order, list[bytes], Sequence[float] | None]:
    """The order, the bytes of its requests, and the times at which they are sent; None for a closed loop."""
    head = json.loads(_read_framed(stream))
    lengths, is_open = head.pop("requests"), head.pop("is_open")
    requests = [stream.read(length) for length in lengths]
    times = array("d")
    times.frombytes(_read_framed(stream))
    return Order(**head), requests, times if is_open else None


def write_noted(noted: Noted, stream: BinaryIO) -> None:
    """Write the columns; `read_noted` reads them."""
    head = {"begin": noted.begin, "wall_s": noted.wall_s, "cpu_s": noted.cpu_s}
    stream.write(_framed(json.dumps(head).encode()))
    for column in noted.columns:
        stream.write(_framed(column.tobytes()))
    stream.flush()


def read_noted(stream: BinaryIO) -> Noted:
    """The columns.

    Raises:
        EOFError: the client ended before it wrote them.
    """
    noted = Noted.empty()
    head = json.loads(_read_framed(stream))
    noted.begin, noted.wall_s, noted.cpu_s = head["begin"], head["wall_s"], head["cpu_s"]
    for column in noted.columns:
        column.frombytes(_read_framed(stream))
    return noted


def _framed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _read_framed(stream: BinaryIO) -> bytes:
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        raise EOFError("the stream ended before its first frame")
    return stream.read(_LENGTH.unpack(length)[0])
