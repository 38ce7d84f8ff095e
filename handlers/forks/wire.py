"""Messages between a fork server and those who want workers: JSON, its length before it, and open files beside it."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Standard input, output and error of a worker, and what else it takes over.
MOST_FILES = 8
MOST_BYTES = 8 << 20
_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Order:
    """A worker that somebody wants: what `python -c program arguments` would be."""

    program: str
    arguments: Sequence[str]
    folder: str  # its working directory
    environment: dict[str, str]
    umask: int
    nice: int
    limits: dict[str, tuple[int, int]]  # soft and hard (surroundings.py)
    ignored: Sequence[int]  # signals that it ignores
    files: Sequence[int]  # the numbers under which it has the open files that come with the order
    surroundings: dict[str, Any]  # of who asks (surroundings.py)

    def message(self) -> dict[str, Any]:
        return asdict(self)


def send(connection: socket.socket, message: Any, files: Sequence[int] = ()) -> None:
    """Send a message, and open files with it.

    Raises:
        OSError: the other side is gone.
    """
    content = json.dumps(message).encode()
    socket.send_fds(connection, [_LENGTH.pack(len(content))], list(files))
    connection.sendall(content)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """The next message, and the open files that came with it.

    Raises:
        EOFError: the other side is gone.
        ValueError: the message is malformed.
        OSError: it did not come in time.
    """
    begin, files, _, _ = socket.recv_fds(connection, _LENGTH.size, MOST_FILES)
    try:
        [length] = _LENGTH.unpack(begin + _exactly(connection, _LENGTH.size - len(begin)))
        if length > MOST_BYTES:
            raise ValueError(f"a message of {length} bytes")
        return json.loads(_exactly(connection, length)), files
    except BaseException:
        for number in files:
            os.close(number)
        raise


def is_ours(connection: socket.socket) -> bool:
    """Whether the process on the other side belongs to the same user; addresses here have no permissions."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())


def _exactly(connection: socket.socket, count: int) -> bytes:
    chunks = []
    while count:
        if not (chunk := connection.recv(count)):
            raise EOFError
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
