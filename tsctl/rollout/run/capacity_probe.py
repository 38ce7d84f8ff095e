"""Measures how long a worker takes for a full batch: all requests sent at once, and the time to the last answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from tsctl.errors import NodeError
from tsctl.nodes.torchserve.session import Unreachable

#: Full batches that are sent, one after the other; a small load, and enough for a median.
BATCHES = 7
TIMEOUT_S = 60.0


def batch_seconds(url: str, headers: Mapping[str, str], bodies: Sequence[bytes]) -> list[float]:
    """Seconds that each of BATCHES full batches took.

    Args:
        bodies: one request each; together a full batch.

    Raises:
        Unreachable: nothing answers any more, so that the node is away.
        NodeError: an answer is no 200, or does not come in time.
    """
    parts = urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}content-length: "
    messages = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    opened: list[socket.socket] = []
    try:
        for _ in messages:
            connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.append(connection)
        return [_once(opened, messages) for _ in range(BATCHES)]
    except ConnectionError as error:  # a worker that dies is told with a status; this is the node itself
        raise Unreachable(f"{url} does not answer any more: {error}") from None
    except (OSError, ValueError) as error:
        raise NodeError(f"{url} does not answer a full batch of {len(messages)}: {error}") from None
    finally:
        for connection in opened:
            connection.close()


def _once(opened: Sequence[socket.socket], messages: Sequence[bytes]) -> float:
    begin = time.perf_counter()
    for connection, message in zip(opened, messages, strict=True):
        connection.sendall(message)
    for connection in opened:
        _read(connection)
    return time.perf_counter() - begin


def _read(connection: socket.socket) -> None:
    """One whole answer.

    Raises:
        ValueError: it is no 200, or has no length.
    """
    seen = b""
    while (end := seen.find(b"\r\n\r\n")) < 0:
        seen += _more(connection)
    head = seen[:end].lower()
    if head[9:12] != b"200":
        raise ValueError(f"answered {head[9:40].decode('latin-1')!r}")
    begin = head.find(b"\r\ncontent-length:")
    if begin < 0:
        raise ValueError("answered without a length")
    length = int(head[begin + 17 :].split(b"\r\n", 1)[0])
    while len(seen) < end + 4 + length:
        seen += _more(connection)


def _more(connection: socket.socket) -> bytes:
    read = connection.recv(65536)
    if not read:
        raise ConnectionResetError("the connection was closed before the answer was whole")
    return read
