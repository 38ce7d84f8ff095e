"""How long a worker may be silent: the time begins anew with each batch."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.batch_process import BatchProcess
from handlers.adapters.asgi.frames import ANSWERS, Answer, Item, answers_frame
from handlers.adapters.asgi.worker_process import Events

#: Seconds that a batch may take, and what a clock in milliseconds may be off by.
BATCH_S, OFF_S = 0.3, 0.01


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[BatchProcess, asyncio.Future[float]]]:
    """A worker whose process takes whatever comes and answers nothing; the future is when it was killed."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[float] = loop.create_future()
    events = Events(lambda *_: None, lambda *_: None, lambda *_: ended.set_result(loop.time()))
    process = BatchProcess(0, BATCH_S, events, lambda *_: None)
    process._process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process._process.stdin is not None
    await loop.connect_write_pipe(lambda: process, process._process.stdin)
    process.is_ready = True
    try:
        yield process, ended
    finally:
        process.kill()
        await process.wait()


def begin(process: BatchProcess) -> float:
    """Give it a batch; when."""
    process.compute([Waiting(Item((), b"{}", "one"), 0.0, 60.0, lambda _: None)])
    return asyncio.get_running_loop().time()


def answer(process: BatchProcess) -> None:
    """Take the answer to its batch."""
    message = answers_frame([Answer(200, ((b"content-type", b"application/json"),), b"1")])
    process.take(ANSWERS, message[5:])


def test_a_batch_that_takes_too_long_ends_the_worker_also_after_others() -> None:
    async def check() -> None:
        async with worker() as (process, ended):
            for _ in range(3):
                begin(process)
                await asyncio.sleep(BATCH_S / 2)
                answer(process)
            begun = begin(process)
            assert await asyncio.wait_for(ended, 30) - begun >= BATCH_S - OFF_S
            assert process.is_overdue

    asyncio.run(check())


def test_a_worker_without_a_batch_may_be_silent() -> None:
    async def check() -> None:
        async with worker() as (process, ended):
            begin(process)
            answer(process)
            await asyncio.sleep(2 * BATCH_S)
            assert not ended.done() and not process.is_overdue

    asyncio.run(check())
