"""A Redis of a benchmark's or a test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tsctl.errors import NodeError
from tsctl.host.wait import wait_until

#: As docs/control.md asks for: nothing that was confirmed is lost.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
START_S, STOP_S = 20.0, 10.0


@contextmanager
def running_redis(
    folder: Path, port: int, *options: str, host: str = "127.0.0.1", inside: Sequence[str] = ()
) -> Iterator[None]:
    """A Redis without snapshots while the block runs, with further options of its command line.

    Args:
        folder: its files; made where it is missing.
        inside: the words before a command that runs on another machine, which has the address `host`.

    Raises:
        NodeError: it is not installed, or does not listen.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise NodeError("redis-server is not installed", "apt-get install redis-server")
    folder.mkdir(exist_ok=True)
    listens = ["--port", str(port), "--bind", host, "--protected-mode", "no"]
    command = [*inside, binary, *listens, "--save", "", "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if not wait_until(lambda: _listens(host, port), START_S, 0.02):
            raise NodeError(f"redis-server does not listen on {host}:{port} after {START_S:g} s")
        yield
    finally:
        process.terminate()
        process.wait(STOP_S)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True
