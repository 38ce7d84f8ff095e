"""The class of each prediction stands in a header, which the gateway counts by version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.contract import MOST_CLASSES, OTHER_CLASS
from handlers.pipeline import class_names
from handlers.pipeline.class_names import MOST, ClassNames
from tests.handlers.test_response_cache import Doubler, start
from tests.support.workers import Item, Worker

HEADER = "x-prediction-class"


class Told(Doubler):
    """Says of each double what a test wants it called."""

    name: Any = None

    def classify(self, answer: Any) -> str | None:
        if self.name == "raise":
            raise KeyError("label")
        return "large" if answer["double"] > 10 and self.name is None else self.name or "small"


def classes(worker: Worker, *numbers: float) -> list[str | None]:
    replies = worker.ask(*(Item(json.dumps({"number": number}).encode()) for number in numbers))
    return [reply.headers.get(HEADER) for reply in replies]


def test_every_answer_has_its_class_from_the_cache_or_not(tmp_path: Path) -> None:
    worker = start(tmp_path / "archive", Told())
    assert classes(worker, 1, 6, 1) == ["small", "large", "small"]
    assert classes(worker, 6, 1) == ["large", "small"]  # hits
    assert classes(worker, 13, 7, 1) == [None, None, "small"]  # a failure and a refusal predict nothing


@pytest.mark.parametrize("name", ["a b", "ü", 'a"b', "a\r\nb", "x" * 65, "raise", 7])
def test_a_name_that_no_label_can_carry_is_not_told_and_the_answer_stays(tmp_path: Path, name: Any) -> None:
    handler = Told()
    handler.name = name
    [reply] = start(tmp_path / "archive", handler).ask(Item(b'{"number": 1}'))
    assert (reply.status, reply.json()) == (200, {"double": 2.0})
    assert HEADER not in reply.headers


def test_of_very_many_classes_some_are_told_and_all_others_are_one(tmp_path: Path) -> None:
    class Counted(Doubler):
        """Every number is a class of its own."""

        def classify(self, answer: Any) -> str:
            return f"n{answer['double']}"

    worker = start(tmp_path / "archive", Counted(), batch_size=500)
    told = [name for begin in range(0, 4000, 500) for name in classes(worker, *range(begin + 20, begin + 520))]
    assert told[:256] == [f"n{2.0 * number}" for number in range(20, 276)]
    assert len(set(told)) < 1000
    assert told[-500:].count("other") > 400
    again = [name for begin in range(0, 4000, 500) for name in classes(worker, *range(begin + 20, begin + 520))]
    assert len(set(again)) <= MOST + 1  # from the cache as well, where every answer has its own name
    assert set(again) <= set(told)


NAMES = [f"class-{number}" for number in range(20_000)]


@pytest.mark.parametrize("count", [0, 1, MOST, MOST + 1, 1000, len(NAMES)])
def test_names_are_bounded_and_workers_that_saw_the_same_tell_the_same(count: int) -> None:
    workers = [ClassNames() for _ in range(3)]
    told = []
    for seed, worker in enumerate(workers):
        order = np.random.default_rng(seed).permutation(NAMES[:count]).tolist()
        told.append({worker[name] for name in order})
    assert all(len(names - {OTHER_CLASS}) <= MOST_CLASSES for names in told)
    now = [{name for name in NAMES[:count] if worker[name] == name} for worker in workers]
    assert now[0] == now[1] == now[2]
    assert min(count, MOST // 4) <= len(now[0]) <= MOST
    young = ClassNames()
    for name in NAMES[: count // 10]:
        young[name]
    assert all(young[name] == name for name in now[0])  # what an old worker tells, a young one does


def test_no_worker_tells_more_names_in_its_life_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_names, "MOST_CLASSES", most := MOST + 50)
    names = ClassNames()
    told = {names[name] for name in NAMES}
    assert len(told) == most + 1
    assert {names[name] for name in NAMES} <= told


def test_a_handler_without_classes_tells_none(tmp_path: Path) -> None:
    assert classes(start(tmp_path / "archive"), 1) == [None]


def test_labels_of_the_models_here_are_classes(digits: Worker, breast_cancer: Worker) -> None:
    for worker in (digits, breast_cancer):
        sample = sorted((worker.folder / "samples").glob("*.json"))[0].read_bytes()
        [reply] = worker.ask(Item(sample))
        assert reply.headers[HEADER] == reply.json()["label"]
