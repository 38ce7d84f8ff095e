"""A real Redis for tests, which keeps nothing on disk and ends with its test."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import program


@contextmanager
def redis_server(
    folder: Path, port: int, *options: str, host: str = "127.0.0.1", inside: Sequence[str] = ()
) -> Iterator[None]:
    """A Redis of this test's own, that keeps nothing on disk, with further options of its command line.

    Args:
        inside: the words before a command that runs on another machine, which has the address `host`.
    """
    binary = program("redis-server")
    folder.mkdir(exist_ok=True)
    listens = ["--port", str(port), "--bind", host, "--protected-mode", "no"]
    command = [*inside, binary, *listens, "--save", "", "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((host, port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, "redis-server does not listen"
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)
