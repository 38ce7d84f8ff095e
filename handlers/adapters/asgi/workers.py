"""The workers of one archive: they start, end, and start anew; subclasses give them requests.

Invariant: every submitted request is answered once, whatever happens to the workers, unless its client hung up.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer
from handlers.adapters.asgi.problems import WorkerFailed
from handlers.adapters.asgi.worker_process import Events, WorkerProcess, worker_environment
from handlers.contract import JSON
from handlers.errors import DeadlinePassed, RequestError, Unavailable

logger = logging.getLogger(__name__)

#: Seconds from the end of a worker to its next start: doubled with each that does not become ready.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: How often `stop` looks whether all is answered, and how long it waits for a worker to end by itself; seconds.
DRAIN_POLL_S, END_S = 0.01, 5.0


@dataclass(frozen=True)
class PoolOptions:
    """How the archive is served."""

    folder: Path  # the unpacked archive
    metrics: Path  # the folder into which the workers write their metrics
    model: str
    version: str
    workers: int
    batch_size: int
    most_waiting: int
    most_bytes: int  # of bodies that arrive, wait or are computed
    response_s: float  # a request may wait and be computed so long
    startup_s: float  # a worker may load so long
    output: int | None = None  # the file that takes what workers print; None: that of this process
    places: int | None = None  # answers that a worker which generates text has at a time; None: it computes batches


class Workers:
    """The workers of one archive.

    Args:
        refused: called where no worker could load, with the reason.
    """

    def __init__(self, options: PoolOptions, refused: Callable[[str], None]) -> None:
        self.options = options
        self.description: dict[str, Any] = {}  # of the model; empty until a worker is ready
        self.facts: dict[str, Any] = {}  # of the last load: seconds, device and so on
        self.ready = asyncio.Event()  # a worker has been ready
        self.ready_workers = 0
        self.wanted_workers = options.workers
        self.failure = ""  # why the worker that ended last did not become ready; empty where it did
        self._refused = refused
        self._bytes = 0
        self._workers: dict[int, WorkerProcess] = {}
        self._pauses: dict[int, float] = {}  # by number of a worker, until it starts again
        self._restarting: set[int] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._is_started = False  # from here on, a process that cannot be started is tried again later
        self._is_stopping = False

    async def start(self) -> None:
        """Start the workers; they become ready later.

        Raises:
            OSError: a process cannot be started.
        """
        await self.scale(self.wanted_workers)
        self._is_started = True

    async def scale(self, workers: int) -> None:
        """Have this many workers: those that are missing start, and those beyond end when they are idle."""
        self.wanted_workers = workers
        for number in range(workers):
            if number not in self._workers and number not in self._restarting:
                await self._start_worker(number)
        for worker in [worker for worker in self._workers.values() if worker.number >= workers]:
            worker.retire()

    async def stop(self, drain_s: float = math.inf) -> None:
        """End the workers; the requests that were submitted are answered first.

        Args:
            drain_s: seconds for that; requests that are not answered by then, fail.
        """
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + drain_s
        while self._workers and self._has_work and loop.time() < end:
            await asyncio.sleep(DRAIN_POLL_S)
        self._give_up(Unavailable("The server ended before the answer was complete."))
        for task in self._tasks:
            task.cancel()
        workers = list(self._workers.values())
        for worker in workers:
            worker.close() if worker.is_ready else worker.kill()
        await asyncio.gather(*self._ending, *map(_reap, workers))

    @property
    def ready_pids(self) -> dict[int, int]:
        """Process ids of the workers that are ready, by their number."""
        return {worker.number: worker.pid for worker in self._workers.values() if worker.is_ready}

    # ---- requests ------------------------------------------------------------------------------------------------

    def hold(self, count: int) -> bool:
        """Whether there is room for so many more bytes of bodies; they are to be released."""
        if self._bytes + count > self.options.most_bytes:
            return False
        self._bytes += count
        return True

    def release(self, count: int) -> None:
        """Bytes that were held before."""
        self._bytes -= count

    def describe(self) -> Answer:
        """The model as its worker describes it.

        Raises:
            Unavailable: no worker is ready.
        """
        if not self.ready_workers:
            raise Unavailable("The model has no worker at the moment; retry later.")
        return Answer(200, ((b"content-type", JSON.encode()),), to_json(self.description))

    # ---- what subclasses do ------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        raise NotImplementedError

    def submit(self, waiting: Waiting) -> None:
        """Have the request answered.

        Raises:
            Unavailable: no worker is ready, or too many requests are there.
        """
        raise NotImplementedError

    def leave(self, waiting: Waiting) -> None:
        """The client hung up."""
        raise NotImplementedError

    @property
    def _has_work(self) -> bool:
        """Whether requests wait or are computed."""
        raise NotImplementedError

    def _new_process(self, number: int, events: Events) -> WorkerProcess:
        raise NotImplementedError

    def _fail(self, requests: Sequence[Waiting], error: RequestError) -> None:
        """Answer the requests with the error."""
        raise NotImplementedError

    def _can_work(self) -> None:
        """A worker is ready."""

    def _give_up(self, error: RequestError) -> None:
        """Answer all that is not answered with the error: no worker is ready, or the server ends."""
        raise NotImplementedError

    # ---- workers -------------------------------------------------------------------------------------------------

    async def _start_worker(self, number: int) -> None:
        events = Events(self._worker_ready, self._worker_refused, self._worker_ended)
        worker = self._workers[number] = self._new_process(number, events)
        options = self.options
        environment = worker_environment(options.metrics)
        try:
            await worker.start(options.folder, options.version, environment, options.output)
        except Exception as error:
            del self._workers[number]
            if not (isinstance(error, OSError) and self._is_started):
                raise
            self.failure = f"the process of a worker cannot be started: {error.strerror}"  # for want of memory or pids
            logger.warning("worker %d starts anew in %.1f s: %s", number, self._start_later(number), self.failure)
            return
        asyncio.get_running_loop().call_later(self.options.startup_s, self._check_start, worker)

    def _check_start(self, worker: WorkerProcess) -> None:
        if self._workers.get(worker.number) is worker and not (worker.is_ready or self._is_stopping):
            self.failure = f"no worker was ready within {self.options.startup_s:g} s"
            worker.kill()

    def _worker_ready(self, worker: WorkerProcess, report: dict[str, Any]) -> None:
        self._pauses.pop(worker.number, None)
        self.failure = ""
        self.ready_workers += 1
        self.description, self.facts = report.get("describe", {}), report.get("facts", {})
        self.ready.set()
        self._can_work()

    def _worker_refused(self, worker: WorkerProcess, reason: str) -> None:
        self.failure = reason

    def _worker_ended(self, worker: WorkerProcess, held: Sequence[Waiting]) -> None:
        if worker.is_overdue:
            self._fail(held, DeadlinePassed("The answer took too long: the worker was ended while it computed."))
        else:
            self._fail(held, WorkerFailed("The worker ended while it computed this answer."))
        self._workers.pop(worker.number, None)
        self.ready_workers -= worker.was_ready
        self._keep(_reap(worker), self._ending)
        if self._is_stopping:
            return
        if worker.number >= self.wanted_workers:
            pass
        elif not self.ready.is_set():
            self._refused(self.failure or "the worker ended while it loaded")
            return
        elif worker.is_retiring:  # it was surplus, and is wanted again
            self._keep(self._start_worker(worker.number))
        else:
            if not (worker.was_ready or self.failure):
                self.failure = "the worker ended while it loaded"
            pause = self._start_later(worker.number)
            logger.warning("worker %d (pid %d) ended; it starts anew in %.1f s", worker.number, worker.pid, pause)
        if not self.ready_workers:  # nobody knows when they are back
            self._give_up(Unavailable("The model has no worker at the moment; retry later."))

    def _start_later(self, number: int) -> float:
        """Start the worker anew after a pause, which is longer each time; its seconds."""
        pause = self._pauses.get(number, FIRST_PAUSE_S)
        self._pauses[number] = min(pause * 2, LONGEST_PAUSE_S)
        self._keep(self._restart(number, pause))
        return pause

    async def _restart(self, number: int, pause: float) -> None:
        self._restarting.add(number)
        await asyncio.sleep(pause)
        self._restarting.discard(number)
        if number < self.wanted_workers and number not in self._workers:
            await self._start_worker(number)

    def _keep(self, work: Any, among: set[asyncio.Task[Any]] | None = None) -> None:
        among = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)


async def _reap(ended: WorkerProcess) -> None:
    """Collect a process that has closed its connection; one that still runs after END_S is killed."""
    try:
        await asyncio.wait_for(ended.wait(), END_S)
    except TimeoutError:
        ended.kill()
        await ended.wait()
