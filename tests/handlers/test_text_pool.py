"""Which worker gets a request for texts: the one with the most free places, which answers take and not requests."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import PARTS, Head, Item, Part, parts_frame
from handlers.adapters.asgi.text_pool import LONGEST_READ, TextPool
from handlers.adapters.asgi.text_process import TextProcess
from handlers.adapters.asgi.worker_process import Events
from handlers.adapters.asgi.workers import PoolOptions
from handlers.errors import Unavailable

PLACES = 20
EVENTS = Events(lambda worker, facts: None, lambda worker, reason: None, lambda worker, held: None)


class Wire:
    """Takes what a worker is sent."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.frames.append(data)


class Site:
    """A pool of workers without processes."""

    def __init__(self, workers: int) -> None:
        options = PoolOptions(
            Path(), Path(), "toy", "1.0", workers, batch_size=1, most_waiting=99, most_bytes=1 << 20, response_s=60,
            startup_s=60, places=PLACES,
        )  # fmt: skip
        self.pool = TextPool(options, lambda reason: None)
        self.workers: list[TextProcess] = []
        for number in range(workers):
            worker = self.pool._new_process(number, EVENTS)
            worker._transport = Wire()  # type: ignore[assignment]
            worker.is_ready = True
            self.pool._workers[number] = worker
            self.workers.append(worker)
        self.pool.ready_workers = workers

    @property
    def free(self) -> list[int]:
        return [worker.free_places for worker in self.workers]

    def submit(self, body: Any, headers: Any = ()) -> Waiting:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        waiting = Waiting(Item(headers, data, "r"), 0.0, 1e9, lambda answer: None, lambda part: None)
        self.pool.submit(waiting)
        return waiting


def run(case: Callable[[Site], None], workers: int = 2) -> None:
    async def inside() -> None:
        site = Site(workers)
        case(site)
        for worker in site.workers:
            worker.stop_watching()

    asyncio.run(inside())


def chat(n: int | None = None) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}], **({} if n is None else {"n": n})}


def test_a_request_for_many_answers_takes_many_places() -> None:
    def case(site: Site) -> None:
        site.submit(chat(16))
        assert site.free == [4, 20]
        for _ in range(3):
            site.submit(chat())
        assert site.free == [4, 17], "the worker with one request is the fuller one"
        site.submit({"prompt": ["a", "b", "c"], "n": 4})
        assert site.free == [4, 5]
        with pytest.raises(Unavailable, match="retry later"):
            site.submit(chat(6))
        site.submit(chat(5))
        assert site.free == [4, 0]

    run(case)


def test_places_are_free_again_when_a_request_ends_or_its_client_leaves_or_its_worker() -> None:
    def case(site: Site) -> None:
        left, ended, lost = site.submit(chat(7)), site.submit(chat(6)), site.submit(chat(5))
        assert site.free == [2]
        site.pool.leave(left)
        site.pool.leave(left)
        assert site.free == [9]
        frame = parts_frame([Part(2, Head(200, ()), b"{}", True)])
        site.workers[0].take(PARTS, frame[5:])
        site.pool.leave(ended)
        assert site.free == [15]
        assert list(site.workers[0].give_back()) == [lost]
        assert site.free == [20]

    run(case, workers=1)


def test_what_can_never_have_its_places_is_the_workers_to_refuse() -> None:
    def case(site: Site) -> None:
        site.submit({"prompt": ["a"] * 16, "n": 2})
        assert site.free == [19]

    run(case, workers=1)


def test_compressed_bodies_are_read_and_others_count_as_one() -> None:
    def case(site: Site) -> None:
        encoded = [(b"content-encoding", b"gzip")]
        site.submit(gzip.compress(json.dumps(chat(4)).encode()), encoded)
        assert site.free == [16]
        site.submit(gzip.compress(json.dumps({**chat(4), "user": "x" * LONGEST_READ}).encode()), encoded)
        site.submit(b'{"n": 4', encoded)
        site.submit(b'{"n": 4')
        assert site.free == [13]

    run(case, workers=1)
