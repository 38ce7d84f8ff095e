"""One worker process, as the accepting process sees it: started, given batches, ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import (
    ANSWERS,
    FORMAT,
    READY,
    REFUSED,
    Answer,
    MalformedFrame,
    Unpacker,
    batch_frame,
    read_answers,
    read_report,
)
from handlers.contract import METRICS_FOLDER_VARIABLE, WORKER_ENVIRONMENT, WORKER_PYTHON_VARIABLE


@dataclass(frozen=True)
class Events:
    """What a worker process calls."""

    ready: Callable[[WorkerProcess, dict[str, Any]], None]
    refused: Callable[[WorkerProcess, str], None]  # with the reason; `ended` follows
    idle: Callable[[int, float], None]  # its batch of so many requests is answered, which took so many seconds
    ended: Callable[[WorkerProcess, Sequence[Waiting]], None]  # with the requests that it had


class WorkerProcess(asyncio.Protocol):
    """Invariant: each request that it was given is answered by it, or handed to `ended`.

    Args:
        number: its own among the workers.
        batch_s: seconds that a batch may take; a worker that takes longer is killed.
    """

    def __init__(self, number: int, batch_s: float, events: Events) -> None:
        self.number = number
        self.is_ready = False
        self.was_ready = False  # when it ended
        self.is_retiring = False  # gets no batch any more, and ends when it is idle
        self._is_closing = False
        self._batch_s = batch_s
        self._events = events
        self._batch: Sequence[Waiting] = ()
        self._begun = 0.0  # its computation
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport
        self._process: subprocess.Popen[bytes]
        self._timer: asyncio.TimerHandle | None = None
        self.is_overdue = False  # killed, because its batch took too long

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.is_busy and not self.is_retiring

    @property
    def is_busy(self) -> bool:
        return bool(self._batch)

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
            command = [
                os.environ.get(WORKER_PYTHON_VARIABLE) or sys.executable, "-m", "handlers.adapters.asgi.child",
                str(theirs.fileno()), str(self.number), version,
            ]  # fmt: skip
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def compute(self, batch: Sequence[Waiting]) -> None:
        """Give the batch to the worker, which is idle."""
        self._batch = batch
        self._begun = asyncio.get_running_loop().time()
        self._transport.write(batch_frame([waiting.item for waiting in batch]))
        self._timer = asyncio.get_running_loop().call_later(self._batch_s, self._overdue)

    def retire(self) -> None:
        """Let the worker end, once it has answered the batch that it has; one that still loads ends at once."""
        self.is_retiring = True
        if not self.is_ready:
            self.kill()
        elif not self.is_busy:
            self.close()

    def close(self) -> None:
        """Let the worker end: it has no batch."""
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
        if self._timer is not None:
            self._timer.cancel()
        batch, self._batch = self._batch, ()
        if not self._is_closing:
            self._process.kill()  # it closed its socket, so it answers nothing any more
        self._events.ended(self, batch)

    # ---- messages ------------------------------------------------------------------------------------------------

    def _received(self, kind: bytes, content: bytes) -> None:
        if kind == ANSWERS:
            self._answered(read_answers(content))
        elif kind == READY and not self.is_ready:
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
            raise MalformedFrame(f"a message of kind {kind!r}")

    def _answered(self, answers: Sequence[Answer]) -> None:
        batch = self._batch
        if len(answers) != len(batch) or not batch:
            raise MalformedFrame(f"{len(answers)} answers to {len(batch)} requests")
        self._batch = ()
        if self._timer is not None:
            self._timer.cancel()
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer(answer)
        if self.is_retiring:
            self.close()
        self._events.idle(len(batch), asyncio.get_running_loop().time() - self._begun)

    def _overdue(self) -> None:
        self.is_overdue = True
        self.kill()


def worker_environment(metrics: Path) -> dict[str, str]:
    """The environment of a worker: without PYTHONPATH, whose packages would come before the archive's own.

    Args:
        metrics: folder of the workers' metric files.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**WORKER_ENVIRONMENT, **inherited, METRICS_FOLDER_VARIABLE: str(metrics)}
