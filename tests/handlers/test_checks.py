"""Health checks and tsctl's own requests: what a worker answers to them, and that nothing counts them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.base import ServingHandler
from handlers.contract import CHECK_ANSWER, CHECK_HEADER, CHECK_HEALTH, TIMEOUT_HEADER
from handlers.schema import Schema
from handlers.telemetry.metrics import Telemetry
from tests.support.workers import Item, Worker, assert_problem, write_archive_folder

HEALTHY = {"healthy": True}
USER = Item(b'{"number": 3}')


def check(kind: str) -> Item:
    return Item(b'{"number": 2}', headers={CHECK_HEADER: kind, TIMEOUT_HEADER: "30000"})


class Doubler(ServingHandler):
    """Doubles numbers, and keeps the batches that it got."""

    class Request(Schema):
        number: float

    def load(self) -> None:
        self.batches: list[list[float]] = []
        self.pause_s = 0.0
        self.is_broken = False

    def preprocess(self, items: list[Any]) -> list[float]:
        self.batches.append([item.number for item in items])
        return self.batches[-1]

    def inference(self, inputs: list[float]) -> list[float]:
        time.sleep(self.pause_s)
        if self.is_broken:
            raise RuntimeError("broken")
        return [2 * number for number in inputs]

    def postprocess(self, outputs: list[float]) -> list[float]:
        return outputs


class Counting(Telemetry):
    """Counts what a page of metrics would show."""

    is_on = True

    def __init__(self) -> None:
        self.counted: list[tuple[str, Any]] = []

    def batch(self, items: int, outcomes: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        self.counted.append(("batch", (items, dict(outcomes))))
        assert set(seconds) <= {"decode", "preprocess", "inference", "postprocess", "encode"}

    def cache(self, result: str, tier: str, items: int) -> None:
        self.counted.append((result, items))

    def computed(self, items: int) -> None:
        self.counted.append(("computed", items))


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker that has a cache, and whose metrics are kept."""
    serving = {"cache": {"max_mb": 1.0, "ttl_s": 60.0}}
    folder = write_archive_folder(
        tmp_path / "archive", {"two.json": b'{"number": 2}'}, {"two.json": 4.0}, serving=serving
    )
    (folder / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
    made = Worker(Doubler(), folder)
    made.handler.batches.clear()
    made.handler.telemetry = made.entry.worker.pipeline._telemetry = Counting()
    return made


def bodies(worker: Worker, *items: Item) -> list[Any]:
    replies = worker.ask(*items)
    assert {reply.status for reply in replies} == {200}
    return [reply.json() for reply in replies]


def test_the_first_check_is_computed_and_later_ones_rest_upon_it(worker: Worker) -> None:
    worker.handler.pause_s = 0.2
    assert bodies(worker, check(CHECK_HEALTH)) == [4.0]
    assert bodies(worker, *[check(CHECK_HEALTH)] * 3) == [HEALTHY] * 3
    worker.entry.worker._answered_at -= 10 * 0.2 + 1  # the time passes
    assert bodies(worker, check(CHECK_HEALTH)) == [4.0]
    assert len(worker.handler.batches) == 2


def test_a_busy_worker_spends_nothing_on_checks(worker: Worker) -> None:
    worker.handler.pause_s = 0.05
    bodies(worker, check(CHECK_HEALTH))
    worker.entry.worker._answered_at -= 60
    numbers = [Item(b'{"number": %d}' % number) for number in range(10, 14)]
    assert bodies(worker, check(CHECK_HEALTH), *numbers, check(CHECK_HEALTH)) == [HEALTHY, 20, 22, 24, 26, HEALTHY]
    assert worker.handler.batches[1:] == [[10, 11, 12, 13]]


def test_a_model_that_fails_or_is_only_remembered_fails_its_check(worker: Worker) -> None:
    bodies(worker, USER, check(CHECK_HEALTH))
    worker.handler.is_broken = True
    worker.entry.worker._answered_at -= 60
    assert bodies(worker, USER) == [6.0]  # a hit: no answer of the model
    assert_problem(worker.ask(USER, check(CHECK_HEALTH))[1], 500)


def test_what_tsctl_asks_is_computed_together_and_never_from_the_cache(worker: Worker) -> None:
    assert bodies(worker, *[check(CHECK_ANSWER)] * 3) == [4.0] * 3
    assert bodies(worker, *[check(CHECK_ANSWER)] * 3) == [4.0] * 3
    assert worker.handler.batches == [[2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("kind", [CHECK_HEALTH, CHECK_ANSWER])
def test_nothing_counts_a_request_that_no_client_sent(worker: Worker, kind: str) -> None:
    counted: Sequence[tuple[str, Any]] = worker.handler.telemetry.counted
    for _ in range(3):
        worker.ask(check(kind), check(kind), Item(b"{", headers={CHECK_HEADER: kind}))
    assert counted == []
    worker.ask(check(kind), USER, check(kind))
    assert counted == [("computed", 1), ("miss", 1), ("batch", (1, {"ok": 1}))]


def test_a_check_goes_the_way_of_a_clients_request(worker: Worker) -> None:
    [refused] = worker.ask(Item(b'{"number": 2}', headers={TIMEOUT_HEADER: "0", CHECK_HEADER: CHECK_HEALTH}))
    assert_problem(refused, 504)
    assert bodies(worker, check(CHECK_HEALTH)) == [4.0]
    assert_problem(worker.ask(Item(USER.body, headers={TIMEOUT_HEADER: "soon"}))[0], 400)
