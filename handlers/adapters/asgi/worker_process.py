"""A worker process, as the accepting process sees it: started, ready or refused, ended; subclasses give it work."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import FORMAT, READY, REFUSED, MalformedFrame, Unpacker, read_report
from handlers.contract import METRICS_FOLDER_VARIABLE, RUN_MODULE, WORKER_ENVIRONMENT, WORKER_PYTHON_VARIABLE
from handlers.forks.client import Forked, NotForked, chosen_address, fork_worker, new_address

logger = logging.getLogger(__name__)

_CHILD = "handlers.adapters.asgi.child"
#: Where the fork server of this process listens, from its first worker on.
_OWN_SERVER = new_address()


@dataclass(frozen=True)
class Events:
    """What a worker process calls."""

    ready: Callable[[WorkerProcess, dict[str, Any]], None]
    refused: Callable[[WorkerProcess, str], None]  # with the reason; `ended` follows
    ended: Callable[[WorkerProcess, Sequence[Waiting]], None]  # with the requests that it had


class WorkerProcess(asyncio.Protocol):
    """Invariant: each request that it was given is answered by it, or handed to `ended`.

    Args:
        number: its own among the workers.
        silent_s: seconds that a worker which has requests may be silent; one that is silent for longer is killed.
    """

    def __init__(self, number: int, silent_s: float, events: Events) -> None:
        self.number = number
        self.is_ready = False
        self.was_ready = False  # when it ended
        self.is_retiring = False  # gets no request any more, and ends when it has none
        self._is_closing = False
        self._silent_s = silent_s
        self._events = events
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport
        self._process: subprocess.Popen[bytes] | Forked
        self._timer: asyncio.TimerHandle | None = None  # looks at `_silent_until`, and outlives many batches
        self._silent_until = math.inf  # of the loop's clock; later, the worker is killed
        self.is_overdue = False  # killed, because it was silent for too long

    @property
    def is_busy(self) -> bool:
        """Whether it has requests."""
        raise NotImplementedError

    def give_back(self) -> Sequence[Waiting]:
        """The requests that it had, which it does not answer any more."""
        raise NotImplementedError

    def take(self, kind: bytes, content: bytes) -> None:
        """A message of a worker that is ready.

        Raises:
            MalformedFrame: it is none.
        """
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(
        self, folder: Path, version: str, environment: Mapping[str, str], output: int | None = None
    ) -> None:
        """Start the process in the folder of an unpacked archive, whose own package `handlers` it runs.

        Its Python is the one that WORKER_PYTHON_VARIABLE names, else that of this process.

        Args:
            version: under which the archive is served.
            output: takes its standard output and standard error; None: those of this process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            module = [_CHILD, str(theirs.fileno()), str(self.number), version]
            try:
                self._process = await asyncio.to_thread(
                    start_process, module, folder, environment, output, theirs.fileno()
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def retire(self) -> None:
        """Let the worker end, once it has answered the requests that it has; one that still loads ends at once."""
        self.is_retiring = True
        if not self.is_ready:
            self.kill()
        elif not self.is_busy:
            self.close()

    def close(self) -> None:
        """Let the worker end: nobody waits for an answer of it."""
        self._is_closing = True
        self._transport.close()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()

    async def wait(self) -> int:
        """The exit status of the process, once it has ended."""
        return await asyncio.to_thread(self._process.wait)

    # ---- called by asyncio ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of classes of its own

    def data_received(self, data: bytes) -> None:
        try:
            for kind, content in self._unpacker.feed(data):
                self._received(kind, content)
        except MalformedFrame:
            self.kill()  # `connection_lost` follows

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_ready, self.was_ready = False, self.is_ready
        self.stop_watching()
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_closing:
            self._process.kill()  # it closed its socket, so it answers nothing any more
        self._events.ended(self, self.give_back())

    # ---- messages ------------------------------------------------------------------------------------------------

    def _received(self, kind: bytes, content: bytes) -> None:
        if kind == READY and not self.is_ready:
            report = read_report(content)
            if report.get("format") != FORMAT:
                self._events.refused(self, "its archive was built by another tsctl: build it again")
                self.kill()  # `connection_lost` follows
                return
            self.is_ready = True
            self._events.ready(self, report)
        elif kind == REFUSED:
            self._events.refused(self, str(read_report(content).get("reason", "")))
        else:
            self.take(kind, content)

    # ---- for subclasses ------------------------------------------------------------------------------------------

    def write(self, message: bytes) -> None:
        """Send the worker a message."""
        self._transport.write(message)

    def watch(self) -> None:
        """From now on the worker may be silent for `silent_s`."""
        loop = asyncio.get_running_loop()
        self._silent_until = loop.time() + self._silent_s
        if self._timer is None:  # a new one for each batch would cost more than its frame
            self._timer = loop.call_at(self._silent_until, self._look)

    def stop_watching(self) -> None:
        """The worker may be silent for as long as it likes."""
        self._silent_until = math.inf

    def _look(self) -> None:
        """Kill the worker where its time is over, else look again when it will be."""
        loop, self._timer = asyncio.get_running_loop(), None
        if loop.time() >= self._silent_until:
            self.is_overdue = True
            self.kill()
        elif self._silent_until < math.inf:
            self._timer = loop.call_at(self._silent_until, self._look)


def start_process(
    module: Sequence[str], folder: Path, environment: Mapping[str, str], output: int | None, connection: int
) -> subprocess.Popen[bytes] | Forked:
    """The process of a worker: forked, or else started.

    Args:
        module: that it runs, and the module's arguments.
        connection: stays open there, under the same number.
    """
    python = os.environ.get(WORKER_PYTHON_VARIABLE) or sys.executable
    if address := chosen_address(os.environ, _OWN_SERVER):
        with Path(os.devnull).open("rb") as nothing:
            files = {0: nothing.fileno(), 1: 1 if output is None else output, 2: 2 if output is None else output}
            try:
                return fork_worker(
                    address,
                    python,
                    RUN_MODULE,
                    module,
                    folder=folder,
                    environment=environment,
                    files=files | {connection: connection},
                    owner=os.getpid(),
                )
            except NotForked as reason:
                logger.info("a worker imports torch by itself: %s", reason)
    return subprocess.Popen(
        [python, "-c", RUN_MODULE, *module],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[connection],
    )


def worker_environment(metrics: Path) -> dict[str, str]:
    """The environment of a worker: without PYTHONPATH, whose packages would come before the archive's own.

    Args:
        metrics: folder of the workers' metric files.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**WORKER_ENVIRONMENT, **inherited, METRICS_FOLDER_VARIABLE: str(metrics)}
