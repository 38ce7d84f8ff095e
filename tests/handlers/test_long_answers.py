"""Answers that the node would not read: it ends a worker that sends a longer one, or too many long ones together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from handlers.adapters.torchserve import wire
from handlers.adapters.torchserve.context import DEFAULT_LONGEST_ANSWER, with_context_calls
from handlers.adapters.torchserve.long_answers import unsendable
from handlers.base import ServingHandler
from handlers.contract import ANSWER_LIMIT_VARIABLE, OPEN_INFERENCE, PROTOCOL_HEADER
from handlers.errors import DoesNotFit, LoadError, RequestError
from handlers.schema import Schema
from tests.support.messages import Connection, message
from tests.support.workers import JSON, Item, Reply, Worker, assert_problem, replies, write_archive_folder

LIMIT = 2000
SAMPLES = {"two.json": b'{"letters": 2}'}


class Letters(ServingHandler):
    """Answers with a text of so many letters."""

    class Request(Schema):
        """How many."""

        letters: int

    BROKEN = 13
    computed: ClassVar[list[int]] = []

    def load(self) -> None:
        """Nothing to load."""

    def preprocess(self, items: list[Any]) -> torch.Tensor:
        self.computed.extend(item.letters for item in items)
        return torch.tensor([item.letters for item in items])

    def inference(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        return [Unlistable() if letters == self.BROKEN else "x" * letters for letters in outputs.tolist()]


class Unlistable:
    """Part of an answer that cannot be written."""

    def tolist(self) -> list[Any]:
        raise KeyError("no list")


class OwnHandle:
    """TorchServe's own kind of handler: each of its answers has another type."""

    def initialize(self, context: Any) -> None:
        """Nothing to do."""

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        texts = ["x" * int(item["body"]) for item in data]
        kinds: list[Callable[[str], Any]] = [
            str,
            str.encode,
            lambda text: bytearray(text, "ascii"),
            lambda text: [text],
        ]
        return [kinds[i % 4](text) for i, text in enumerate(texts)]


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ANSWER_LIMIT_VARIABLE, str(LIMIT))


def start(folder: Path, handler: Any = None, **serving: Any) -> Worker:
    write_archive_folder(folder, SAMPLES, {"two.json": "xx"}, serving=serving, batch_size=32)
    worker = Worker(handler or Letters(), folder)
    Letters.computed.clear()
    return worker


@pytest.fixture(params=["bulk", "stock"])
def worker(tmp_path: Path, request: pytest.FixtureRequest) -> Worker:
    return start(tmp_path / "toy", wire=request.param)


def letters(count: int) -> Item:
    return Item(b'{"letters": %d}' % count)


def ask(worker: Worker, *items: Item) -> list[Reply]:
    """As the node asks: in a message of its own bytes."""
    from ts.protocol.otf_message_handler import retrieve_msg

    parts = [(f"request-{i}", [("Content-Type", JSON), *item.headers.items()], [("body", JSON, item.body)])
             for i, item in enumerate(items)]  # fmt: skip
    _, batch = retrieve_msg(Connection(message(parts), [1 << 16]))
    return replies(bytes(worker.service.predict(batch)))


def test_an_answer_over_the_limit_fails_alone_and_is_not_computed_again(worker: Worker) -> None:
    longest = LIMIT - 2  # and two quotation marks
    first, long, exact = ask(worker, letters(3), letters(longest + 1), letters(longest))
    assert (first.json(), exact.json()) == ("xxx", "x" * longest)
    assert "at most 2000 can be sent" in assert_problem(long, 500)["detail"]
    [again] = ask(worker, letters(longest + 1))
    assert "made the model fail" in assert_problem(again, 500)["detail"]
    assert Letters.computed == [3, longest + 1, longest]


def test_answers_that_are_too_many_bytes_together_leave_the_most_that_fit(worker: Worker) -> None:
    answers = ask(worker, *[letters(900)] * 3, letters(1200), letters(901))
    assert [answer.status for answer in answers] == [200, 200, 200, 500, 200]
    assert "batch" in assert_problem(answers[3], 500)["detail"]
    assert [answer.status for answer in ask(worker, letters(1200))] == [200]  # alone it fits


def test_a_description_over_the_limit_does_not_end_the_worker(tmp_path: Path) -> None:
    class Described(Letters):
        """Its description is long."""

        class Request(Schema):
            """X."""

            __doc__ = "x" * LIMIT
            letters: int

    worker = start(tmp_path / "toy", Described())
    worker.entry.worker.handler.Request = Described.Request
    [described] = worker.ask(Item(headers={"describe": "True"}, media_type="", form=()))
    assert_problem(described, 500)


def test_an_infer_request_whose_answers_are_too_long_together_is_told_to_send_fewer_rows(worker: Worker) -> None:
    def infer(rows: int) -> Item:
        tensor = {"name": "letters", "shape": [rows], "datatype": "INT64", "data": [900] * rows}
        return Item(json.dumps({"inputs": [tensor]}).encode(), headers={PROTOCOL_HEADER: OPEN_INFERENCE})

    one, three = ask(worker, infer(1), infer(3))
    assert (one.status, three.status) == (200, 413)
    assert "send fewer rows" in three.json()["detail"]


@pytest.mark.parametrize("wire", ["bulk", "stock"])
def test_a_handle_of_the_authors_own_may_answer_too_much_in_any_type(tmp_path: Path, wire: str) -> None:
    worker = start(tmp_path / "toy", OwnHandle(), wire=wire)
    answers = worker.ask(*[Item(b"20")] * 4, *[Item(b"2001")] * 4, Item(b"20"))
    assert [answer.status for answer in answers] == [200] * 4 + [500] * 4 + [200]
    assert answers[3].json() == ["x" * 20]
    for answer in answers[4:8]:
        assert answer.json()["detail"].startswith("The answer has 20")


def test_a_handle_that_calls_the_adapters_is_held_too(tmp_path: Path) -> None:
    class Doubled(Letters):
        """Sends each answer twice."""

        def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
            return [answer * 2 for answer in super().handle(data, context)]  # type: ignore[misc]

    worker = start(tmp_path / "toy", with_context_calls(Doubled)())
    short, long = worker.ask(letters(10), letters(1500))
    assert (short.status, short.body) == (200, b'"xxxxxxxxxx"' * 2)
    assert (long.status, long.media_type, long.json()["version"]) == (500, "application/problem+json", "1.0")


def test_an_answer_that_cannot_be_written_for_any_reason_fails_alone(worker: Worker) -> None:
    broken, good = ask(worker, letters(Letters.BROKEN), letters(1))
    assert_problem(broken, 500)
    assert good.json() == "x"


def test_a_version_whose_own_sample_is_answered_too_long_does_not_load(tmp_path: Path) -> None:
    write_archive_folder(tmp_path / "toy", {"long.json": b'{"letters": 2000}'}, {"long.json": "x" * 2000})
    with pytest.raises(LoadError, match="The answer has 2002 bytes; at most 2000 can be sent"):
        Worker(Letters(), tmp_path / "toy")


def test_a_worker_that_is_not_told_the_limit_takes_torchserves_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ANSWER_LIMIT_VARIABLE)
    assert start(tmp_path / "toy").entry.worker.config.answer_bytes == DEFAULT_LONGEST_ANSWER


@pytest.mark.parametrize(
    ("sizes", "left_out"),
    [
        ([], []),
        ([10, 10], []),
        ([11], [0]),
        ([10] * 3, [0]),
        ([1, 10, 1, 10, 1], [1]),
        ([11, 10, 10], [0]),
        ([7, 8, 9, 10], [2, 3]),
    ],
)
def test_the_largest_answers_are_left_out(sizes: list[int], left_out: list[int]) -> None:
    assert sorted(unsendable([b"x" * size for size in sizes], 10)) == left_out


class Renamed(Letters):
    """Refuses some numbers with a status that is none."""

    STATUSES: ClassVar[dict[int, Any]] = {20: "422", 21: 422.5, 22: None, 23: 1 << 40}

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        return [self._refused(letters) if letters in self.STATUSES else "x" * letters for letters in outputs.tolist()]

    def _refused(self, letters: int) -> DoesNotFit:
        error = DoesNotFit("letters: not this many.")
        error.status = self.STATUSES[letters]
        return error


def test_an_error_whose_status_is_none_fails_alone(tmp_path: Path) -> None:
    worker = start(tmp_path / "toy", Renamed())
    first, *wrong, last = ask(worker, letters(1), *map(letters, Renamed.STATUSES), letters(2))
    assert (first.json(), last.json()) == ("x", "xx")
    assert [reply.status for reply in wrong] == [500] * 4


@pytest.mark.parametrize("status", [0, 99, 200, 302, 600, 1000, -1, "422", 422.0, True, None])
def test_an_error_of_an_author_with_a_status_that_is_none_is_refused_when_it_is_defined(status: Any) -> None:
    with pytest.raises(TypeError, match=r"Wrong\.status must be a whole number from 400 to 599"):
        type("Wrong", (RequestError,), {"status": status})


def test_a_handle_that_sets_a_status_of_text_fails_its_batch_and_no_worker(tmp_path: Path) -> None:
    class Named(OwnHandle):
        """Sets the status of its first answer in words."""

        def handle(self, data: list[Any], context: Any) -> list[Any]:
            if data[0]["body"] == b"7":
                context.set_response_status("fine", "fine", 0)
            return super().handle(data, context)

    worker = start(tmp_path / "toy", Named(), wire="stock")
    context_item = Item(b"7")
    parts = [("request-0", [("Content-Type", JSON)], [("body", JSON, context_item.body)])]
    reader = wire.Reader(Connection(message(parts), [1 << 16]).recv)
    assert reader.take(1) == b"I"
    assert [reply.status for reply in replies(bytes(worker.service.predict(reader.batch())))] == [503]
