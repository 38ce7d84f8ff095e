"""Many requests without a key, from a client that reads nothing but their statuses."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable

#: Seconds until an answer comes.
ANSWER_S = 30.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def flood(place: tuple[str, int], paths: Iterable[str]) -> Counter[int]:
    """Ask for each path without a key, one after the other on one connection; the answers by their status.

    Raises:
        OSError: the connection was closed before all answers came.
    """
    answers: Counter[int] = Counter()
    with socket.create_connection(place, timeout=ANSWER_S) as connection:
        for path in paths:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            found = _STATUS.match(connection.recv(1 << 16))  # an answer of the gateway itself comes in one piece
            if found is None:
                raise ConnectionError(f"closed after {answers.total()} answers")
            answers[int(found[1])] += 1
    return answers


def streams_without_window(path: str, streams: int) -> bytes:
    """A connection of HTTP/2 that asks for the path on each stream, without a key, and takes no byte of an answer."""
    headers = {b":method": b"GET", b":scheme": b"http", b":authority": b"a", b":path": path.encode()}
    block = b"".join(b"\x00" + _short(name) + _short(value) for name, value in headers.items())
    no_window = _frame(_SETTINGS, 0, 0, b"\x00\x04" + bytes(4))
    return _PREFACE + no_window + b"".join(_frame(_HEADERS, _END, 2 * number + 1, block) for number in range(streams))


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS = 1, 4
_END = 5  # of the headers, and of the stream


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _short(text: bytes) -> bytes:
    """A literal of HPACK with fewer than 127 bytes."""
    return bytes([len(text)]) + text
