"""Stands in for a worker that a fork server makes: a server that starts its workers by a command runs this one.

It ends as the worker ends, and the worker ends with it. Where no fork server can make the worker, this process becomes
the worker.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from handlers.forks.client import Forked, NotForked, fork_worker


def main(address: str, program: str, *arguments: str) -> None:
    """Run `python -c program arguments` in a worker, until it ends.

    Args:
        address: of the fork server, which lives as long as the process that started this one.
    """
    try:
        worker = fork_worker(
            address,
            sys.executable,
            program,
            arguments,
            folder=Path.cwd(),
            environment=dict(os.environ),
            files={0: 0, 1: 1, 2: 2},
            owner=os.getppid(),
        )
    except NotForked:
        os.execv(sys.executable, [sys.executable, "-c", program, *arguments])  # noqa: S606 - no shell is wanted
    _end_as(worker)


def _end_as(worker: Forked) -> None:
    """End as the worker does; who reads its output sees the end of it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    status = worker.wait()
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker's own is enough
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
