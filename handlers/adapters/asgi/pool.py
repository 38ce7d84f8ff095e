"""Workers that compute batches, and what waits for them: batches are cut when a worker becomes idle, and no sooner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from handlers.adapters.asgi.backlog import Backlog, Waiting, share
from handlers.adapters.asgi.batch_process import BatchProcess
from handlers.adapters.asgi.pace import REMEMBERED, Pace
from handlers.adapters.asgi.problems import error_answer
from handlers.adapters.asgi.worker_process import Events, WorkerProcess
from handlers.adapters.asgi.workers import PoolOptions, Workers
from handlers.errors import DeadlinePassed, RequestError, Unavailable

#: Full batches whose requests are ordered by their length together, where items differ in shape: no more than the pace
#: remembers, so that its estimate is that of short and long ones.
ROUND = REMEMBERED


class Pool(Workers):
    """The workers of one archive, and the requests that wait for them."""

    def __init__(self, options: PoolOptions, refused: Callable[[str], None]) -> None:
        super().__init__(options, refused)
        self._backlog = Backlog(options.most_waiting)
        self._pace = Pace(options.batch_size)
        self._is_planned = False

    @property
    def waiting(self) -> int:
        return len(self._backlog)

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

    def leave(self, waiting: Waiting) -> None:
        self._backlog.leave(waiting)

    @property
    def _has_work(self) -> bool:
        return bool(len(self._backlog)) or any(worker.is_busy for worker in self._workers.values())

    def _new_process(self, number: int, events: Events) -> BatchProcess:
        return BatchProcess(number, self.options.response_s, events, self._worker_idle)

    def _worker_idle(self, requests: int, seconds: float) -> None:
        self._pace.ended(requests, seconds)
        self._dispatch()

    def _worker_ready(self, worker: WorkerProcess, report: dict[str, Any]) -> None:
        if report.get("is_fixed_shape") is False and self.options.batch_size > 1:
            self._backlog.most_in_round = ROUND * self.options.batch_size
        super()._worker_ready(worker, report)

    def _can_work(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        self._is_planned = False
        now = asyncio.get_running_loop().time()
        idle = [worker for worker in self._workers.values() if isinstance(worker, BatchProcess) and worker.is_idle]
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
            waiting.answer(error_answer(error, waiting.item, options.model, options.version))

    def _give_up(self, error: RequestError) -> None:
        batch, _ = self._backlog.take(len(self._backlog), float("-inf"))
        self._fail(batch, error)
