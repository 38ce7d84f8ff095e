"""A worker process that computes one batch after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import ANSWERS, MalformedFrame, batch_frame, read_answers
from handlers.adapters.asgi.worker_process import Events, WorkerProcess


class BatchProcess(WorkerProcess):
    """Gets a batch where it has none.

    Args:
        batch_s: seconds that a batch may take; a worker that takes longer is killed.
        idle: called when a batch of so many requests is answered, which took so many seconds.
    """

    def __init__(self, number: int, batch_s: float, events: Events, idle: Callable[[int, float], None]) -> None:
        super().__init__(number, batch_s, events)
        self._idle = idle
        self._batch: Sequence[Waiting] = ()
        self._begun = 0.0  # its computation

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.is_busy and not self.is_retiring

    @property
    def is_busy(self) -> bool:
        return bool(self._batch)

    def compute(self, batch: Sequence[Waiting]) -> None:
        """Give the batch to the worker, which is idle."""
        self._batch = batch
        self._begun = asyncio.get_running_loop().time()
        self.write(batch_frame([waiting.item for waiting in batch]))
        self.watch()

    def give_back(self) -> Sequence[Waiting]:
        batch, self._batch = self._batch, ()
        return batch

    def take(self, kind: bytes, content: bytes) -> None:
        if kind != ANSWERS:
            raise MalformedFrame(f"a message of kind {kind!r}")
        answers, batch = read_answers(content), self._batch
        if len(answers) != len(batch) or not batch:
            raise MalformedFrame(f"{len(answers)} answers to {len(batch)} requests")
        self._batch = ()
        self.stop_watching()
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer(answer)
        if self.is_retiring:
            self.close()
        self._idle(len(batch), asyncio.get_running_loop().time() - self._begun)
