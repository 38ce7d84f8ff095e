"""The class of each prediction stands in a header, which the gateway counts by version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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


def test_a_handler_without_classes_tells_none(tmp_path: Path) -> None:
    assert classes(start(tmp_path / "archive"), 1) == [None]


def test_labels_of_the_models_here_are_classes(digits: Worker, breast_cancer: Worker) -> None:
    for worker in (digits, breast_cancer):
        sample = sorted((worker.folder / "samples").glob("*.json"))[0].read_bytes()
        [reply] = worker.ask(Item(sample))
        assert reply.headers[HEADER] == reply.json()["label"]
