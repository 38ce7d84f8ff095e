"""What every handler promises to TorchServe's service: one outcome per item, each with its own status and headers."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import GetPydanticSchema
from pydantic_core import core_schema
from ts.utils.util import list_classes_from_module

from handlers.adapters.torchserve import wire
from handlers.adapters.torchserve.context import with_context_calls
from handlers.adapters.torchserve.install import install
from handlers.base import ServingHandler
from handlers.errors import DoesNotFit, LoadError, RequestError, problem_document
from handlers.protocols.plain import is_finite
from handlers.schema import Schema
from tests.support.messages import Connection, message
from tests.support.workers import CHECKOUT, JSON, Item, Worker, assert_problem, write_archive_folder
from tsctl.archive.probe import decode_answers

SAMPLES = {"two.json": b'{"number": 2}', "three.json": b'{"number": 3}'}
GOLDEN = {"two.json": {"double": 4.0}, "three.json": {"double": 6.0}}


class ToyHandler(ServingHandler):
    """Doubles numbers; each of the special ones makes another step fail."""

    class Request(Schema):
        """A number."""

        number: float

    IN_PREPROCESS = 101.0
    IN_MODEL = 102.0
    NO_JSON = 103.0
    NAN = 104.0
    REFUSED = 105.0
    CUDA = 106.0
    TOO_MANY = 107.0
    batches: ClassVar[list[int]] = []

    def load(self) -> None:
        self.factor = self.settings.get("factor", 2)

    def preprocess(self, items: list[Any]) -> torch.Tensor:
        numbers = [item.number for item in items]
        if self.IN_PREPROCESS in numbers:
            raise KeyError("/srv/models/secret.py")
        return torch.tensor(numbers)

    def inference(self, inputs: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        self.batches.append(len(inputs))
        if self.IN_MODEL in inputs:
            raise RuntimeError("the model broke")
        if self.CUDA in inputs:
            raise RuntimeError("CUDA error: out of memory")
        return inputs * self.factor

    def postprocess(self, outputs: torch.Tensor) -> list[Any]:
        if self.TOO_MANY * self.factor in outputs:
            return [0.0] * (len(outputs) + 1)
        return [self._answer(double) for double in outputs]

    def _answer(self, double: torch.Tensor) -> Any:
        value = double.item() / self.factor
        if value == self.NO_JSON:
            return {"double": object()}
        if value == self.NAN:
            return {"double": float("nan")}
        if value == self.REFUSED:
            return DoesNotFit("number: too special.", [{"field": "number", "message": "too special"}])
        return {"double": double}


def number(value: float) -> Item:
    return Item(json.dumps({"number": value}).encode())


@pytest.fixture
def toy(tmp_path: Path) -> Worker:
    worker = Worker(ToyHandler(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    ToyHandler.batches.clear()
    return worker


def test_a_batch_is_answered_in_order_with_statuses_and_headers(toy: Worker) -> None:
    replies = toy.ask(number(1), Item(b"nonsense"), number(3))
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert [replies[0].json(), replies[2].json()] == [{"double": 2.0}, {"double": 6.0}]
    assert replies[0].media_type == JSON
    assert replies[0].headers["x-model-version"] == "1.0"
    assert_problem(replies[1], 400)
    assert ToyHandler.batches == [2]  # the item that cannot be read never reached the model


@pytest.mark.parametrize("special", [101, 102, 103, 104, 106, 107])
def test_an_item_that_fails_anywhere_fails_alone(toy: Worker, special: int, caplog: pytest.LogCaptureFixture) -> None:
    replies = toy.ask(number(1), number(2), number(special), number(4), number(5))
    document = assert_problem(replies.pop(2), 500)
    assert (document["model"], document["version"], document["request_id"]) == ("toy", "1.0", "request-2")
    assert [reply.json()["double"] for reply in replies] == [2.0, 4.0, 8.0, 10.0]
    if special not in (103, 104):
        assert "the model failed on an item" in caplog.text  # with its traceback, for whoever runs the node


def test_an_item_may_be_refused_by_the_model(toy: Worker) -> None:
    good, refused = toy.ask(number(1), number(ToyHandler.REFUSED))
    assert good.status == 200
    assert assert_problem(refused, 422)["errors"] == [{"field": "number", "message": "too special"}]


def test_every_item_of_a_batch_may_fail(toy: Worker) -> None:
    for reply in toy.ask(number(ToyHandler.IN_MODEL), number(ToyHandler.IN_PREPROCESS), number(ToyHandler.NAN)):
        assert_problem(reply, 500)


def test_a_body_over_the_limit_is_too_large(toy: Worker) -> None:
    assert_problem(toy.ask_one(b" " * 1025), 413)
    assert toy.ask_one(b'{"number": 1}'.ljust(1024)).status == 200


def test_describe_is_answered_and_a_client_that_sends_its_header_changes_nothing_for_others(toy: Worker) -> None:
    [described] = toy.ask(Item(headers={"describe": "True"}, media_type="", form=()))
    assert described.json()["request_schema"]["properties"].keys() == {"number"}
    assert described.json()["max_request_bytes"] == 1024
    replies = toy.ask(Item(b'{"number": 1}', headers={"describe": "True"}), number(2))
    assert [reply.json() for reply in replies] == [{"double": 2.0}, {"double": 4.0}]


def test_explanations_are_not_offered(toy: Worker) -> None:
    refused, good = toy.ask(Item(b'{"number": 1}', headers={"explain": "True"}), number(2))
    assert_problem(refused, 501)
    assert good.status == 200


@pytest.mark.parametrize(
    ("sent", "answered"),
    [("abc-123", "abc-123"), ("", "request-0"), ("x" * 129, "request-0"), ("two\nlines", "request-0")],
)
def test_the_clients_request_id_is_kept_where_it_is_a_plain_one(toy: Worker, sent: str, answered: str) -> None:
    [reply] = toy.ask(Item(b"nonsense", headers={"X-Request-Id": sent}))
    assert reply.json()["request_id"] == answered


FORMS: dict[str, tuple[tuple[tuple[str, str, bytes], ...], int]] = {
    "one file": ((("file", "application/json", b'{"number": 1}'),), 200),
    "one file in upper case": ((("file", "APPLICATION/JSON; charset=utf-8", b'{"number": 1}'),), 200),
    "one attribute without a type": ((("data", "", b'{"number": 1}'),), 200),
    "an attribute named body": ((("body", "", b'{"number": 1}'),), 200),
    "a file of another type": ((("file", "application/pdf", b'{"number": 1}'),), 415),
    "no field": ((), 415),
    "two fields": ((("a", "", b'{"number": 1}'), ("b", "", b'{"number": 1}')), 400),
    "an empty field, as curl -d makes of JSON": ((('{"number": 1}', "", b""),), 400),
    "a field named as a header": ((("Content-Type", "application/json", b'{"number": 1}'),), 200),
}


@pytest.mark.parametrize(("fields", "status"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("form_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_forms(toy: Worker, fields: tuple[tuple[str, str, bytes], ...], status: int, form_type: str) -> None:
    replies = toy.ask(Item(media_type=form_type, form=fields), number(2))
    assert [reply.status for reply in replies] == [status, 200]
    if status != 200:
        assert_problem(replies[0], status)


def test_fields_of_the_query_are_not_part_of_the_body(toy: Worker) -> None:
    query = (("trace", "", b"1"), ("body", "application/json", b'{"number": 1}'))
    [reply] = toy.ask(Item(form=query))
    assert reply.json() == {"double": 2.0}


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("", 200),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON ; charset=ISO-8859-1", 200),
        ("text/json", 200),
        ("text/plain", 415),
        ("image/png", 415),
        (";", 200),
        ("*/*", 415),
    ],
)
def test_media_types(toy: Worker, media_type: str, status: int) -> None:
    reply = toy.ask_one(b'{"number": 1}', media_type)
    assert reply.status == status
    if status == 415:
        assert JSON in assert_problem(reply, 415)["detail"]


def test_a_load_says_so_in_one_line(tmp_path: Path, said: Callable[[], list[dict[str, Any]]]) -> None:
    Worker(ToyHandler(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, batch_size=5))
    [line] = said()
    assert (line["model"], line["version"], line["outcome"]) == ("toy", "1.0", "ready")
    assert (line["device"], line["threads"]) == ("cpu", 1)
    assert [timing["batch"] for timing in line["warmup"]] == [1, 2, 4, 5]
    assert torch.get_num_threads() == 1
    assert torch.get_num_interop_threads() == 1


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong answer": (
        {"golden": {**GOLDEN, "three.json": {"double": 6.1}}},
        "sample three.json, alone, is not the golden answer: double: expected 6.1, got 6.0",
    ),
    "a sample that is no request": ({"samples": {**SAMPLES, "two.json": b"{}"}}, "two.json, alone: answered 422"),
    "no sample": ({"samples": {}}, "no samples"),
    "a sample without an answer": ({"golden": {"two.json": {"double": 4.0}}}, "one to one: three.json"),
    "an answer without a sample": ({"golden": {**GOLDEN, "four.json": 1}}, "one to one: four.json"),
    "a model that fails": ({"settings": {"factor": "two"}}, "alone: answered 500"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_worker_that_cannot_prove_itself_refuses_to_load(
    tmp_path: Path, change: dict[str, Any], reason: str, said: Callable[[], list[dict[str, Any]]]
) -> None:
    content: dict[str, Any] = {"samples": SAMPLES, "golden": GOLDEN, **change}
    folder = write_archive_folder(tmp_path / "toy", **content)
    with pytest.raises(LoadError, match=r"toy 1\.0 must not serve"):
        Worker(ToyHandler(), folder)
    [line] = said()
    assert line["outcome"] == "refused"
    assert reason in line["reason"]
    assert "\n" not in line["reason"]


def test_an_answer_that_depends_on_its_neighbours_refuses_to_load(tmp_path: Path) -> None:
    class Centred(ToyHandler):
        """Wrong in a batch only."""

        def inference(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * 2 + inputs.mean() - inputs[0]

    with pytest.raises(LoadError, match=r"sample three.json, in a batch"):
        Worker(Centred(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))


def test_a_batch_that_works_only_in_halves_refuses_to_load(tmp_path: Path) -> None:
    class OneAtATime(ToyHandler):
        """Right for every sample, and for no batch."""

        def inference(self, inputs: torch.Tensor) -> torch.Tensor:
            if len(inputs) > 1:
                raise RuntimeError("sizes must match")
            return super().inference(inputs)

    with pytest.raises(LoadError, match=r"a batch of samples fails, .* RuntimeError: sizes must match"):
        Worker(OneAtATime(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))


def test_a_stock_configuration_refuses_to_load(tmp_path: Path, said: Callable[[], list[dict[str, Any]]]) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN)
    (folder / "model-config.yaml").write_text("batchSize: 1\n")
    with pytest.raises(LoadError, match="tsctl archive build"):
        Worker(ToyHandler(), folder)
    assert "no 'serving' section" in said()[0]["reason"]


def test_another_package_handlers_than_the_archives_refuses_to_load(tmp_path: Path) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN)
    (folder / "handlers").mkdir()
    with pytest.raises(LoadError, match="unset PYTHONPATH"):
        Worker(ToyHandler(), folder)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no model.py"),
        ({"model.py": b"def build(settings): raise ValueError('no such size')"}, "ValueError: no such size"),
        ({"model.py": b"import torch\ndef build(settings): return torch.nn.Linear(1, 1)"}, "no weights file"),
        (
            {
                "model.py": b"import torch\ndef build(settings): return torch.nn.Linear(1, 1)",
                "model.safetensors": b"\x80\x04garbage",
            },
            "model.safetensors cannot be read as weights",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_refuses(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(LoadError, match=reason):
        Worker(ServingHandler(), folder)


def test_weights_that_carry_code_are_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    torch.save({"weight": Evil()}, tmp_path / "model.pt")
    from handlers.weights import load_weights

    with pytest.raises(LoadError, match=r"model.pt cannot be read as weights"):
        load_weights(tmp_path / "model.pt")
    assert not (tmp_path / "was-run").exists()


def test_arrays_and_tensors_of_all_kinds_are_written_as_json(tmp_path: Path) -> None:
    class Arrays(ToyHandler):
        """Answers with what models return."""

        def _answer(self, double: torch.Tensor) -> Any:
            array = np.array([[double.item()]], dtype=np.float32)
            return {"a": array, "b": array[0, 0], "c": double.to(torch.bfloat16), "d": np.int64(3), "e": double.int()}

    golden = {name: {"a": [[a["double"]]], "b": a["double"], "c": a["double"], "d": 3, "e": int(a["double"])}
              for name, a in GOLDEN.items()}  # fmt: skip
    worker = Worker(Arrays(), write_archive_folder(tmp_path / "toy", SAMPLES, golden))
    assert worker.ask_one(b'{"number": 2}').json() == golden["two.json"]


def test_each_module_defines_at_most_the_one_class_that_torchserve_takes() -> None:
    for name, expected in {
        "image": "ImageHandler",
        "embedding": "EmbeddingHandler",
        "tabular": "TabularHandler",
    }.items():
        found = list_classes_from_module(importlib.import_module(f"handlers.{name}"))
        assert [c.__name__ for c in found] == [expected]
    assert (CHECKOUT / "handlers" / "__init__.py").is_file()


def test_nothing_is_logged_for_a_clients_mistake(toy: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    toy.ask(Item(b"nonsense"), Item(b"{}"), number(1))
    assert [r for r in caplog.records if r.name.startswith("handlers") and r.levelno >= logging.WARNING] == []


def test_the_reason_of_a_refusal_names_the_error_and_its_line_to_the_operator_alone(tmp_path: Path) -> None:
    class Misspelt(ToyHandler):
        """Fails as a typing error does."""

        def postprocess(self, outputs: torch.Tensor) -> list[Any]:
            return [self.settings["speces"] for _ in outputs]

    with pytest.raises(LoadError, match=r"answered 500: KeyError: 'speces' \(test_handler_contract\.py, line \d+\)"):
        Worker(Misspelt(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))


def test_an_item_that_made_the_model_fail_costs_the_next_batch_nothing(toy: Worker) -> None:
    poison = number(ToyHandler.IN_MODEL)
    toy.ask(number(1), poison, number(2))
    ToyHandler.batches.clear()
    first, refused, second = toy.ask(number(1), poison, number(2))
    assert (first.status, second.status) == (200, 200)
    assert "not tried again so soon" in assert_problem(refused, 500)["detail"]
    assert ToyHandler.batches == [2]


def test_a_batch_too_large_for_the_memory_is_halved_and_the_size_is_remembered(tmp_path: Path) -> None:
    class Small(ToyHandler):
        """Has memory for two items."""

        is_short = False

        def inference(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.is_short and len(inputs) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().inference(inputs)

    worker = Worker(Small(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    Small.is_short = True
    for _ in range(2):
        ToyHandler.batches.clear()
        replies = worker.ask(*(number(n) for n in range(8)))
        assert [reply.json()["double"] for reply in replies] == [2.0 * n for n in range(8)]
        assert ToyHandler.batches == [2, 2, 2, 2]
    assert worker.ask(number(1))[0].status == 200


def test_a_batch_has_the_same_answers_with_and_without_torchserves_context(toy: Worker) -> None:
    """The bulk wire hands items over by themselves; TorchServe's own way passes them through its context."""
    items = [
        number(1),
        Item(b"nonsense", headers={"X-Request-Id": "mine"}),
        Item(b"", media_type="application/json"),
        Item(media_type="multipart/form-data; boundary=x", form=(("file", "application/json", b'{"number": 3}'),)),
        Item(media_type="multipart/form-data; boundary=x", form=()),
        Item(headers={"describe": "True"}, media_type="", form=()),
        Item(b'{"number": 1}', headers={"explain": "True"}),
        Item(b'{"number": 1}', headers={"X-Request-Deadline-Ms": "1"}),
        number(ToyHandler.REFUSED),
    ]
    messages = [item.message(place) for place, item in enumerate(items)]
    batch = wire.Batch(
        wire.Item(
            message["requestId"].decode(),
            {header["name"].decode(): header["value"].decode() for header in message["headers"]},
            {part["name"]: bytes(part["value"]) for part in message["parameters"]},
            {part["name"]: part["contentType"] for part in message["parameters"]},
        )
        for message in messages
    )
    assert install(toy.entry, toy.entry.respond)
    assert bytes(toy.service.predict(batch)) == bytes(toy.service.predict(messages))


def test_a_handle_of_the_authors_own_is_called_on_the_bulk_wire_too(tmp_path: Path) -> None:
    class Marked(ToyHandler):
        """Adds a header of its own to each answer."""

        def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
            # the adapter's, which stands behind the class
            answers: list[bytes] = super().handle(data, context)  # type: ignore[misc]
            for index in range(len(answers)):
                context.set_response_header(index, "x-mine", "yes")
            return answers

    worker = Worker(with_context_calls(Marked)(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    content = {"Content-Type": JSON}
    item = wire.Item("request-0", content, {"body": b'{"number": 2}'}, {"body": JSON})
    [answer] = decode_answers(bytes(worker.service.predict(wire.Batch([item]))))
    assert (answer["status"], answer["headers"]["x-mine"]) == (200, "yes")


def bulk(*items: Item) -> wire.Batch:
    """What handlers/adapters/torchserve/wire.py reads of the items' message."""
    parts = [
        (
            f"request-{number}",
            [("Content-Type", item.media_type), *item.headers.items()],
            item.form or [("body", item.media_type, item.body)],
        )
        for number, item in enumerate(items)
    ]
    reader = wire.Reader(Connection(message(parts), [1 << 16]).recv)
    assert reader.take(1) == b"I"
    return reader.batch()


def test_a_form_that_names_a_field_twice_is_refused_and_a_query_is_not_meant(toy: Worker) -> None:
    one, two = (("data", JSON, b'{"number": %d}' % n) for n in (1, 2))
    query = (("body", "", b"1"), ("body", JSON, b'{"number": 3}'))
    twice, once, bare = toy.entry.answer(
        bulk(Item(media_type="multipart/form-data", form=(one, two)), Item(form=(one,)), Item(form=query))
    )
    assert (twice.status, json.loads(twice.body)["detail"][:37]) == (400, "The form has a field more than once; ")
    assert [json.loads(answer.body) for answer in (once, bare)] == [{"double": 2.0}, {"double": 6.0}]


def test_a_batch_on_the_bulk_wire_leaves_no_line_in_the_log(toy: Worker, caplog: pytest.LogCaptureFixture) -> None:
    install(toy.entry, toy.entry.respond)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    assert [a["status"] for a in decode_answers(bytes(toy.service.predict(bulk(number(1), Item(b"no")))))] == [200, 400]
    assert caplog.messages == []


@pytest.mark.parametrize(("version", "rank", "lines"), [("0.13.0", "0", 1), ("0.12.0", "1", 0)])
def test_another_torchserve_and_another_rank_keep_torchserves_own_wire(
    toy: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, rank: str, lines: int
) -> None:
    monkeypatch.setattr(sys.modules["ts"], "__version__", version, raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    caplog.clear()
    assert not install(toy.entry, toy.entry.respond)
    assert ["0.13.0" in line and "wire.py knows 0.12.0" in line for line in caplog.messages] == [True] * lines


def test_the_archive_turns_the_bulk_wire_off(tmp_path: Path, said: Callable[[], list[dict[str, Any]]]) -> None:
    for name, chosen in (("off", "stock"), ("on", "bulk")):
        Worker(ToyHandler(), write_archive_folder(tmp_path / name, SAMPLES, GOLDEN, serving={"wire": chosen}))
    assert [line["wire"] for line in said()] == ["stock", "bulk"]


def test_an_item_that_makes_reading_fail_fails_alone(tmp_path: Path) -> None:
    class Undescribed(ToyHandler):
        """Cannot be described: nobody has said how its number looks as JSON."""

        class Request(Schema):
            """A number of an odd type."""

            number: Annotated[
                Any, GetPydanticSchema(lambda kind, handler: core_schema.no_info_plain_validator_function(float))
            ]

    worker = Worker(Undescribed(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    failed, good = worker.ask(Item(headers={"describe": "True"}, media_type="", form=()), number(2))
    assert_problem(failed, 500)
    assert good.json() == {"double": 4.0}


class Teapot(RequestError):
    """A status that HTTP has no name for."""

    status = 460
    kind = "teapot"
    title = "Another kind of refusal"


def test_a_status_of_the_authors_own_is_answered_without_a_phrase(tmp_path: Path) -> None:
    class Refusing(ToyHandler):
        """Refuses one number in a way of its own, in the middle of a batch."""

        def inference(self, inputs: torch.Tensor) -> torch.Tensor:
            if 9 in inputs:
                raise Teapot("It is a nine.")
            return super().inference(inputs)

    worker = Worker(Refusing(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    first, refused, last = worker.ask(number(1), number(9), number(3))
    assert assert_problem(refused, 460)["detail"] == "It is a nine."
    assert (first.status, last.status) == (200, 200)
    [answer] = worker.entry.answer(bulk(number(9)))
    assert (answer.status, answer.phrase) == (460, "")


def test_a_422_has_its_list_of_mistakes_also_where_an_author_gave_none() -> None:
    assert json.loads(problem_document(DoesNotFit("No."), None, "toy", "1.0"))["errors"] == []


def test_an_item_too_large_for_the_memory_is_not_tried_again_and_leaves_batches_whole(tmp_path: Path) -> None:
    class Small(ToyHandler):
        """Has no memory for a nine."""

        def inference(self, inputs: torch.Tensor) -> torch.Tensor:
            if 9 in inputs:
                raise torch.OutOfMemoryError("out of memory")
            return super().inference(inputs)

    worker = Worker(Small(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    batch = [number(n) for n in (1, 9, 3, 4)]
    assert "more memory" in assert_problem(worker.ask(*batch)[1], 500)["detail"]
    ToyHandler.batches.clear()
    assert "not tried again so soon" in assert_problem(worker.ask(*batch)[1], 500)["detail"]
    assert ToyHandler.batches == [3]


def test_a_panic_while_an_item_is_decoded_fails_it_alone(tmp_path: Path) -> None:
    class Panic(BaseException):
        """What the parser's Rust code raises in its panics."""

    class Panicking(ToyHandler):
        """Its parser has a defect."""

        def decode(self, body: bytes, media_type: str) -> Any:
            if body == b"{}":
                raise Panic("index out of bounds")
            return super().decode(body, media_type)

    worker = Worker(Panicking(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN))
    failed, good = worker.ask(Item(b"{}"), number(2))
    assert_problem(failed, 500)
    assert good.status == 200


def test_a_word_that_looks_like_nan_beside_an_endless_integer_is_json() -> None:
    assert is_finite(b'["NaN", 1' + b"0" * 5000 + b"]")
    assert not is_finite(b"[NaN, 1" + b"0" * 5000 + b"]")
