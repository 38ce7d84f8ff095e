"""The workers of one archive and what waits for them: batches are cut when a worker becomes idle, and no sooner.

Invariant: every submitted request is answered once, whatever happens to the workers, unless its client hung up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from handlers.adapters.asgi.backlog import Backlog, Waiting, share
from handlers.adapters.asgi.frames import Answer
from handlers.adapters.asgi.pace import Pace
from handlers.adapters.asgi.problems import WorkerFailed, problem_answer
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


class Pool:
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
        self._backlog = Backlog(options.most_waiting)
        self._pace = Pace(options.batch_size)
        self._bytes = 0
        self._workers: dict[int, WorkerProcess] = {}
        self._pauses: dict[int, float] = {}  # by number of a worker, until it starts again
        self._restarting: set[int] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._is_started = False  # from here on, a process that cannot be started is tried again later
        self._is_stopping = False
        self._is_planned = False

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

    async def stop(self) -> None:
        """End the workers; the requests that were submitted are answered first."""
        self._is_stopping = True
        while self._workers and (len(self._backlog) or any(worker.is_busy for worker in self._workers.values())):
            await asyncio.sleep(DRAIN_POLL_S)
        for task in self._tasks:
            task.cancel()
        workers = list(self._workers.values())
        for worker in workers:
            worker.close() if worker.is_ready else worker.kill()
        await asyncio.gather(*self._ending, *map(_reap, workers))

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._backlog)

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

    def submit(self, waiting: Waiting) -> None:
        """Have the request answered.

        Raises:
            Unavailable: no worker is ready, too many requests wait, or the answer would come too late.
        """
        if not self.ready_workers:
            raise Unavailable("The model has no worker at the moment; retry later.")
        ahead = len(self._backlog)
        if ahead and self._pace.is_too_late(ahead, self.ready_workers, waiting.expires - waiting.arrived):
            wait_s = self._pace.wait_s(ahead, self.ready_workers)
            raise Unavailable("So many requests wait that the answer would come too late; retry later.", wait_s)
        if not self._backlog.add(waiting):
            raise Unavailable("Too many requests wait for this model; retry later.")
        if not self._is_planned:
            self._is_planned = True
            asyncio.get_running_loop().call_soon(self._dispatch)  # with what else came at the same time

    def describe(self) -> Answer:
        """The model as its worker describes it.

        Raises:
            Unavailable: no worker is ready.
        """
        if not self.ready_workers:
            raise Unavailable("The model has no worker at the moment; retry later.")
        return Answer(200, ((b"content-type", JSON.encode()),), to_json(self.description))

    def leave(self, waiting: Waiting) -> None:
        """The client hung up."""
        self._backlog.leave(waiting)

    def _dispatch(self) -> None:
        self._is_planned = False
        now = asyncio.get_running_loop().time()
        idle = [worker for worker in self._workers.values() if worker.is_idle]
        for position, worker in enumerate(idle):
            if not len(self._backlog):
                return
            size = share(len(self._backlog), len(idle) - position, self.options.batch_size)
            batch, expired = self._backlog.take(size, now)
            self._fail(expired, DeadlinePassed("The answer took too long: the request waited for a worker."))
            if batch:
                worker.compute(batch)

    def _fail(self, requests: Sequence[Waiting], error: RequestError) -> None:
        options = self.options
        for waiting in requests:
            waiting.answer(problem_answer(error, waiting.item.request_id, options.model, options.version))

    # ---- workers -------------------------------------------------------------------------------------------------

    async def _start_worker(self, number: int) -> None:
        events = Events(self._worker_ready, self._worker_refused, self._worker_idle, self._worker_ended)
        worker = self._workers[number] = WorkerProcess(number, self.options.response_s, events)
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
        self._dispatch()

    def _worker_idle(self, requests: int, seconds: float) -> None:
        self._pace.ended(requests, seconds)
        self._dispatch()

    def _worker_refused(self, worker: WorkerProcess, reason: str) -> None:
        self.failure = reason

    def _worker_ended(self, worker: WorkerProcess, batch: Sequence[Waiting]) -> None:
        if worker.is_overdue:
            self._fail(batch, DeadlinePassed("The answer took too long: the worker was ended while it computed."))
        else:
            self._fail(batch, WorkerFailed("The worker ended while it computed this batch."))
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
            batch, _ = self._backlog.take(len(self._backlog), float("-inf"))
            self._fail(batch, Unavailable("The model has no worker at the moment; retry later."))

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
