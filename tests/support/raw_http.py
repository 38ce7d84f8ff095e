"""Sends raw bytes to a server and reads its answers strictly, with no client between that would tidy either.

Invariant: an answer is counted only where all of its bytes came; what is left over is shown and never guessed at.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Place = tuple[str, int]
#: When the client ends its side: nothing has come for QUIET_S; an answer announced that the server will close; never.
End = Literal["quiet", "announced", "closed"]

#: Long enough for most answers; one that comes later is lost to a client that does not know how many will come.
QUIET_S = 0.3
#: Until then, every connection has come to its end.
END_S = 60.0
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*)")
_CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")


@dataclass(frozen=True)
class Message:
    """A request or an answer, as its bytes say."""

    start: str
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Exchange:
    """The answers to some bytes."""

    answers: tuple[Message, ...]
    rest: bytes  # behind the last whole answer
    was_closed: bool  # by the server, or announced by it, before the client ended its side

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


class Malformed(Exception):
    """Bytes that no reader of HTTP/1.1 should have to understand."""


def exchange(place: Place, pieces: Sequence[bytes], end: End = "announced", is_head: bool = False) -> Exchange:
    """Send the pieces one after the other, and read until the end.

    Args:
        is_head: the answers have no bodies, whatever length they name.
    """
    data, was_closed = bytes_of(place, pieces, end)
    answers, rest = read_messages(data, is_head)
    return Exchange(tuple(a for a in answers if a.status != 100), rest, was_closed)


def bytes_of(place: Place, pieces: Sequence[bytes], end: End) -> tuple[bytes, bool]:
    """All that comes back, and whether the server closed the connection, or announced that it will."""
    with socket.create_connection(place, timeout=END_S) as connection:
        _send(connection, pieces)
        return _receive(connection, end)


def reset_after(place: Place, sent: bytes) -> None:
    """Send the bytes, and reset the connection at once."""
    with socket.create_connection(place, timeout=END_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)


def _send(connection: socket.socket, pieces: Sequence[bytes]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return  # refused before all of it was sent: the answer says so


def _receive(connection: socket.socket, end: End) -> tuple[bytes, bool]:
    data, has_ended, was_told = bytearray(), False, False
    connection.settimeout(QUIET_S if end == "quiet" else END_S)
    while True:
        try:
            received = connection.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        except TimeoutError:
            assert end == "quiet" and not has_ended, f"the server does not close; so far came {bytes(data[-300:])!r}"
            received = None
        if received == b"":
            return bytes(data), was_told or not has_ended
        data += received or b""
        was_told = b"\r\nconnection: close\r\n" in data
        if not has_ended and (received is None or (was_told and end != "closed")):
            has_ended = True
            connection.settimeout(END_S)
            if not _end(connection):
                return bytes(data), was_told


def _end(connection: socket.socket) -> bool:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return False  # the server has reset it in this moment
    return True


def read_messages(data: bytes, is_head: bool = False) -> tuple[list[Message], bytes]:
    """Whole messages from the beginning, and the bytes behind them.

    Raises:
        Malformed: what stands there begins no message.
    """
    messages: list[Message] = []
    while True:
        read = _read_message(data, is_head)
        if read is None:
            return messages, data
        message, data = read
        messages.append(message)


def _read_message(data: bytes, is_head: bool) -> tuple[Message, bytes] | None:
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    start, *lines = head.split(b"\r\n")
    headers = []
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Malformed(f"no header: {line!r} in {head!r}")
        headers.append((match[1].decode().lower(), match[2].decode("latin-1").strip()))
    message = Message(start.decode("latin-1"), tuple(headers), b"")
    if is_head or (message.start.startswith("HTTP/") and (message.status < 200 or message.status in (204, 304))):
        return message, rest
    body = _read_body(message, rest)
    return None if body is None else (Message(message.start, message.headers, body[0]), body[1])


def _read_body(message: Message, rest: bytes) -> tuple[bytes, bytes] | None:
    lengths, encodings = message.all("content-length"), message.all("transfer-encoding")
    if len(lengths) + len(encodings) != 1:
        raise Malformed(f"not one length but {lengths} and {encodings}: {message.start}")
    if encodings:
        if encodings != ["chunked"]:
            raise Malformed(f"transfer-encoding {encodings}: {message.start}")
        return _read_chunks(rest)
    if not re.fullmatch("[0-9]+", lengths[0]):
        raise Malformed(f"content-length {lengths[0]!r}: {message.start}")
    length = int(lengths[0])
    return (rest[:length], rest[length:]) if len(rest) >= length else None


def _read_chunks(rest: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while b"\r\n" in rest:
        match = _CHUNK.match(rest)
        if match is None:
            raise Malformed(f"no chunk: {rest[:40]!r}")
        length = int(match[1], 16)
        end = match.end() + length
        if len(rest) < end + 2:
            return None
        if rest[end : end + 2] != b"\r\n":
            raise Malformed(f"no end of a chunk, or trailers: {rest[end : end + 40]!r}")
        body, rest = body + rest[match.end() : end], rest[end + 2 :]
        if length == 0:
            return body, rest
    return None
