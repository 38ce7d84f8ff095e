"""Ports for servers that tests start: no port is given twice, whatever runs beside the test.

A port that the kernel chose and that was closed again may be chosen again: by the next call, by a test in another
process, or for an outgoing connection. So these ports lie below those that the kernel chooses from, and each process
has blocks of them for itself, by a lock that ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FIRST = 10_000
PER_BLOCK = 50
#: The kernel chooses ports from here on, unless it was told otherwise (net.ipv4.ip_local_port_range).
CHOSEN_BY_KERNEL = 32_768

_locks: list[IO[bytes]] = []


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nothing listens on, and that no test was given before."""
    return [next(_ports) for _ in range(count)]


def _all() -> Iterator[int]:
    for first in range(FIRST, CHOSEN_BY_KERNEL - PER_BLOCK, PER_BLOCK):
        if _is_ours(first):
            yield from filter(_is_free, range(first, first + PER_BLOCK))
    raise RuntimeError("no port is left: other processes hold all blocks, or more tests run than there are ports")


def _is_ours(first: int) -> bool:
    """Lock a block for this process. The files are one user's; another user's blocks are found out by `_is_free`."""
    folder = Path(tempfile.gettempdir()) / f"ports-of-tests-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock = (folder / str(first)).open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    _locks.append(lock)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ports = _all()
