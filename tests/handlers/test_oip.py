"""Infer requests of the Open Inference Protocol, which handlers answer row by row as they answer anything else."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, Field

from handlers.base import ServingHandler
from handlers.contract import OPEN_INFERENCE, PROTOCOL_HEADER
from handlers.embedding import EmbeddingHandler
from handlers.errors import DoesNotFit, RequestError
from handlers.image import ImageHandler
from handlers.messages import Outcome, Request
from handlers.protocols.open_inference import Fields, fields_of, fold, read_infer
from handlers.schema import Schema
from handlers.tabular import TabularHandler
from tests.support.workers import (
    CHECKOUT,
    JSON,
    Item,
    Reply,
    Worker,
    assert_problem,
    close,
    unpacked,
    write_archive_folder,
)


class WeighedHandler(ServingHandler):
    """The weighted sum of two numbers, beside answers of other kinds; a sum over a hundred is a mistake."""

    class Request(Schema):
        """Two numbers, their weight, and what to call them."""

        pair: list[float]
        weight: float | None = None
        name: str = ""

    batches: ClassVar[list[int]] = []

    def load(self) -> None:
        pass

    def preprocess(self, items: list[Any]) -> list[tuple[float, str]]:
        self.batches.append(len(items))
        return [(sum(item.pair) * (item.weight or 1), item.name) for item in items]

    def inference(self, inputs: Any) -> Any:
        if any(name == "broken" for _, name in inputs):
            raise RuntimeError("the model broke")
        return inputs

    def postprocess(self, outputs: Any) -> list[Any]:
        return [
            DoesNotFit("pair: too much.", [{"field": "pair", "message": "too much"}])
            if total > 100
            else {"sum": total, "name": name, "is_big": total > 10, "digits": list(range(int(total) % 3))}
            for total, name in outputs
        ]


SAMPLES = {"one.json": b'{"pair": [1, 2]}'}
GOLDEN = {"one.json": {"sum": 3.0, "name": "", "is_big": False, "digits": []}}
CACHE = {"cache": {"max_mb": 1, "ttl_s": 60, "check": 0}}


@pytest.fixture
def weighed(tmp_path: Path) -> Worker:
    worker = Worker(WeighedHandler(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, batch_size=4))
    WeighedHandler.batches.clear()
    return worker


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def infer(*inputs: dict[str, Any], media_type: str = JSON, **more: Any) -> Item:
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return Item(body, media_type, {PROTOCOL_HEADER: OPEN_INFERENCE})


def outputs(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.body
    return {output["name"]: output for output in reply.json()["outputs"]}


def test_rows_are_answered_as_tensors(weighed: Worker) -> None:
    [reply] = weighed.ask(
        infer(
            tensor("pair", [3, 2], [1, 2, 3.5, 4, 50, 6]),
            tensor("weight", [3, 1], [1, 2, 1]),
            tensor("name", [3], ["a", "b", "c"], "BYTES"),
            id="my-id",
        )
    )
    document = reply.json()
    assert {key: document[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "toy",
        "model_version": "1.0",
        "id": "my-id",
    }
    assert outputs(reply) == {
        "sum": tensor("sum", [3], [3.0, 15.0, 56.0], "FP64"),
        "name": tensor("name", [3], ["a", "b", "c"], "BYTES"),
        "is_big": tensor("is_big", [3], [False, True, True], "BOOL"),
        "digits": {**tensor("digits", [3], ["[]", "[]", "[0,1]"], "BYTES"), "parameters": {"content_type": JSON}},
    }
    assert reply.media_type == JSON
    assert reply.headers["x-model-version"] == "1.0"


def test_a_client_may_nest_the_data_and_name_the_outputs_it_wants(weighed: Worker) -> None:
    [reply] = weighed.ask(infer(tensor("pair", [2, 2], [[1, 2], [3, 4]]), outputs=[{"name": "sum"}]))
    assert outputs(reply) == {"sum": tensor("sum", [2], [3.0, 7.0], "FP64")}
    assert reply.json()["id"] == "request-0"


def test_infer_requests_and_others_share_a_batch_and_are_answered_in_order(weighed: Worker) -> None:
    rows = infer(tensor("pair", [3, 2], [1, 1, 2, 2, 3, 3]), outputs=[{"name": "sum"}])
    plain = Item(b'{"pair": [40, 2]}')
    first, second, third = weighed.ask(rows, plain, rows)
    assert second.json()["sum"] == 42.0
    assert outputs(first)["sum"]["data"] == outputs(third)["sum"]["data"] == [2.0, 4.0, 6.0]
    assert WeighedHandler.batches == [4, 3]  # never more at once than the worker was warmed for


def test_a_row_that_fails_fails_its_request_and_no_other(weighed: Worker) -> None:
    bad = infer(tensor("pair", [2, 2], [1, 1, 200, 0]))
    broken = infer(tensor("pair", [1, 2], [1, 1]), tensor("name", [1], ["broken"], "BYTES"))
    good = infer(tensor("pair", [1, 2], [1, 1]))
    refused, failed, answered = weighed.ask(bad, broken, good)
    document = refused.json()
    assert (refused.status, document["error"]) == (422, "Row 1: pair: too much.")
    assert document["errors"] == [{"field": "pair", "message": "too much"}]
    assert (failed.status, failed.json()["type"]) == (500, "urn:tsctl:problem:model-failed")
    assert outputs(answered)["sum"]["data"] == [2.0]


@pytest.mark.parametrize(
    ("item", "status", "told"),
    [
        (infer(), 422, "inputs"),
        (infer({"name": "pair"}), 422, "inputs.0.shape"),
        (infer(tensor("pair", [], [])), 422, "inputs.0.shape"),
        (infer(tensor("pair", [0, 2], [])), 422, "inputs.0.shape.0"),
        (infer(tensor("pair", [1] * 9, [1])), 422, "inputs.0.shape"),
        (infer(tensor("pair", [1, 2], [1])), 422, "inputs.0.data: has 1 values, and its shape [1, 2] has 2"),
        (infer(tensor("pair", [1, 2], [[1]])), 422, "inputs.0.data: is not nested"),
        (infer(tensor("pair", [1, 2], [[1, [2]]])), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 10**9], [1])), 422, "inputs.0.data"),
        (infer(tensor("pair", [1, 10**12], [1])), 422, "inputs.0.shape.1"),
        (infer(tensor("pair", [1, 2], [1, "2"])), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 2], [1, True])), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 2], [1, 1e39])), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 2], [1, 256], "UINT8")), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 2], [1, 1.5], "INT32")), 422, "inputs.0.data.1"),
        (infer(tensor("pair", [1, 2], [1, 2], "FP8")), 422, "inputs.0.datatype"),
        (infer(tensor("pair", [1, 2], [1, 2]), tensor("pair", [1, 2], [1, 2])), 422, "pair came before"),
        (infer(tensor("pair", [1, 2], [1, 2]), tensor("weight", [2], [1, 2])), 422, "has 2 rows, and pair has 1"),
        (infer(tensor("pears", [1, 2], [1, 2])), 422, "Row 0: "),
        (infer(tensor("pair", [1, 2], [1, 2]), outputs=[{"name": "mean"}]), 422, "there is no output mean"),
        (infer(tensor("pair", [5, 2], [1] * 10)), 413, "at most 4"),
        (infer(tensor("pair", [1, 2], [1, 2]), media_type="application/octet-stream"), 415, "binary"),
        (Item(b"{", JSON, {PROTOCOL_HEADER: OPEN_INFERENCE}), 400, "not JSON"),
        (Item(b"[" * 1000, JSON, {PROTOCOL_HEADER: OPEN_INFERENCE}), 400, "not JSON"),
        (Item(b'{"inputs": [' + b" " * 1024 + b"]}", JSON, {PROTOCOL_HEADER: OPEN_INFERENCE}), 413, "1024"),
        (Item(b"", JSON, {PROTOCOL_HEADER: OPEN_INFERENCE}), 400, "not JSON"),
    ],
)
def test_mistakes_are_told(weighed: Worker, item: Item, status: int, told: str) -> None:
    [reply, beside] = weighed.ask(item, Item(b'{"pair": [1, 2]}'))
    document = assert_problem(reply, status)
    assert told in document["error"]
    assert beside.status == 200


def test_sizes_that_are_no_sizes_are_refused_before_they_are_multiplied() -> None:
    """Python refuses to write out a product of more than 4,300 digits, which would be the answer of a whole batch."""
    body = infer(tensor("x", [1, 10**4000, 10**4000], [1])).body
    with pytest.raises(DoesNotFit, match=r"^inputs\.0\.shape\.1: .{,60}\(1 more\)\.$"):
        read_infer(Request(body, JSON), Fields(), 10, 1 << 20)


def coded(data: list[Any], content_type: str, datatype: str = "BYTES", name: str = "name") -> dict[str, Any]:
    return {**tensor(name, [len(data)], data, datatype), "parameters": {"content_type": content_type}}


PAIR = tensor("pair", [1, 2], [1, 2])


def test_bytes_marked_as_base64_are_decoded(weighed: Worker) -> None:
    pair = tensor("pair", [2, 2], [1, 2, 3, 4])
    names = [base64.b64encode(name.encode()).decode() for name in ("a", "grün")]
    marked, plain, numbers = weighed.ask(
        infer(pair, coded(names, "base64")),
        infer(pair, coded(names, "str")),
        infer(pair, coded([1, 2], "np", "FP32", "weight")),
    )
    assert outputs(marked)["name"]["data"] == ["a", "grün"]
    assert outputs(plain)["name"]["data"] == names
    assert outputs(numbers)["sum"]["data"] == [3.0, 14.0]


@pytest.mark.parametrize("read_as", ["utf8", "base64"])
def test_a_field_of_bytes_gets_the_decoded_ones_and_a_text_only_text(
    tmp_path: Path, read_as: Literal["utf8", "base64"]
) -> None:
    class Sized(ServingHandler):
        """The bytes' lengths."""

        class Request(Schema):
            """Bytes."""

            model_config = ConfigDict(val_json_bytes=read_as)
            raw: bytes
            note: str = ""

        def load(self) -> None:
            pass

        def preprocess(self, items: list[Any]) -> list[int]:
            if not all(item.raw for item in items):
                raise ValueError("no bytes")
            return [len(item.raw) for item in items]

        def inference(self, inputs: list[int]) -> list[int]:
            return inputs

        def postprocess(self, outputs: list[int]) -> list[Any]:
            return [{"length": length} for length in outputs]

    samples = {"one.json": json.dumps({"raw": "AAAA"}).encode()}
    length = 4 if read_as == "utf8" else 3
    folder = write_archive_folder(tmp_path / "toy", samples, {"one.json": {"length": length}}, serving=CACHE)
    (folder / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
    worker = Worker(Sized(), folder)

    def encoded(*values: bytes, name: str = "raw") -> dict[str, Any]:
        return coded([base64.b64encode(value).decode() for value in values], "base64", name=name)

    read, empty, no_text, unfit = worker.ask(
        infer(encoded(b"abc", b"\xff\xfe")),
        infer(encoded(b"")),
        infer(encoded(b"abc"), encoded(b"\xff", name="note")),
        infer(encoded(b"\xff"), tensor("note", [1], [1])),
    )
    assert outputs(read)["length"]["data"] == [3, 2]
    assert empty.status == 500  # and its digest, for the quarantine, is made of bytes
    assert (no_text.status, no_text.json()["error"]) == (422, "inputs.1.data.0: is not UTF-8 text.")
    assert unfit.status == 422


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (infer(coded(["not base64!"], "base64")), "inputs.0.data.0"),
        (infer(coded(["YQ"], "base64")), "inputs.0.data.0"),
        (infer(coded(["ü"], "base64")), "inputs.0.data.0"),
        (infer(coded(["YQ==", "/w=="], "base64")), "inputs.0.data.1"),
        (infer(coded([1], "base64", "FP32")), "inputs.0.parameters.content_type"),
        (infer(coded([1], "str", "FP32")), "inputs.0.parameters.content_type"),
        (infer(coded(["a"], "np")), "inputs.0.parameters.content_type"),
        (infer(coded(["a"], "pd")), "inputs.0.parameters.content_type"),
        (infer({**PAIR, "parameters": {"binary_data_size": 8}}), "inputs.0.parameters.binary_data_size"),
        (infer(PAIR, parameters={"sequence_id": 1}), "parameters.sequence_id"),
        (infer(PAIR, parameters={"binary_data_output": 1}), "parameters.binary_data_output"),
        (infer(PAIR, outputs=[{"name": "sum", "parameters": {"top_k": 1}}]), "outputs.0.parameters.top_k"),
        (infer(PAIR, outputs=[{"name": "sum", "parameters": {"binary_data": 1}}]), "outputs.0.parameters.binary_data"),
    ],
)  # fmt: skip
def test_a_parameter_that_means_nothing_here_is_a_mistake(weighed: Worker, item: Item, field: str) -> None:
    [reply] = weighed.ask(item)
    assert (reply.status, reply.json()["errors"][0]["field"]) == (422, field)


def test_parameters_that_ask_for_what_is_so_are_taken(weighed: Worker) -> None:
    pair = {**PAIR, "parameters": {}}
    sums = [{"name": "sum", "parameters": {"binary_data": False}}]
    [reply] = weighed.ask(infer(pair, outputs=sums, parameters={"binary_data_output": False}))
    assert outputs(reply)["sum"]["data"] == [3.0]


def test_of_many_wrong_values_the_first_is_told(weighed: Worker) -> None:
    [reply] = weighed.ask(infer(tensor("pair", [1, 99], [1] + ["x"] * 98)))
    assert reply.status == 422
    assert [entry["field"] for entry in reply.json()["errors"]] == ["inputs.0.data.1"]


def test_answers_that_cannot_be_read_back_fail_their_request_alone(tmp_path: Path) -> None:
    class Endless(WeighedHandler):
        """Answers with more digits than any reader of JSON takes for a large sum."""

        def postprocess(self, outputs: Any) -> list[Any]:
            answers = super().postprocess(outputs)
            return [
                {"n": 10**5000} if name == "endless" else one for one, (_, name) in zip(answers, outputs, strict=True)
            ]

    worker = Worker(Endless(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, batch_size=4))
    endless = infer(tensor("pair", [1, 2], [1, 1]), tensor("name", [1], ["endless"], "BYTES"))
    failed, good = worker.ask(endless, infer(tensor("pair", [1, 2], [1, 1])))
    assert (failed.status, failed.json()["error"]) == (500, "The model's answers cannot be written as tensors.")
    assert outputs(good)["sum"]["data"] == [2.0]


def test_known_rows_come_from_the_cache(tmp_path: Path) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, serving=CACHE, batch_size=4)
    (folder / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
    worker = Worker(WeighedHandler(), folder)
    said = [
        worker.ask(infer(tensor("pair", [len(data) // 2, 2], data)))[0].headers["x-cache"]
        for data in ([1, 2, 3, 4], [3, 4], [3, 4, 5, 6])
    ]
    assert said == ["miss", "hit", "miss"]
    assert worker.ask_one(b'{"pair": [5.0, 6.0]}').headers["x-cache"] == "hit"


@pytest.mark.parametrize(
    ("handler", "model", "given"),
    [
        (ImageHandler, "digits", lambda sample: [tensor("pixels", [1, 8, 8], [sample["pixels"]])]),
        (TabularHandler, "breast_cancer", lambda sample: [tensor(k, [1, 1], [v]) for k, v in sample.items()]),
        (EmbeddingHandler, "embeddings", lambda sample: [tensor("text", [1], [sample["text"]], "BYTES")]),
    ],
)
def test_every_archive_answers_its_samples_by_the_protocol_as_well(
    tmp_path: Path, handler: type[ServingHandler], model: str, given: Any
) -> None:
    worker = Worker(handler(), unpacked(model, "1.0", tmp_path))
    golden = json.loads((CHECKOUT / "archives" / model / "golden" / "1.0.json").read_text())
    name = next(n for n in sorted(golden) if n.endswith(".json") and n != "near-duplicates.json")
    sample = json.loads((CHECKOUT / "archives" / model / "samples" / name).read_text())
    if isinstance(sample.get("text"), list):
        sample["text"] = sample["text"][0]
    plain = worker.ask_one(json.dumps(sample).encode()).json()
    found = outputs(worker.ask(infer(*given(sample)))[0])
    assert found.keys() == plain.keys()
    for key, output in found.items():
        if "parameters" in output:
            assert close([json.loads(text) for text in output["data"]], [plain[key]])
        else:
            assert close(np.reshape(output["data"], output["shape"]).tolist(), [plain[key]])


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.sampled_from(["FP64", "INT16", "BOOL", "BYTES"]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=200)
def test_rows_and_back_are_the_same_tensor(shape: list[int], datatype: str, nested: bool, draw: st.DataObject) -> None:
    values = {
        "FP64": st.floats(allow_nan=False, allow_infinity=False),
        "INT16": st.integers(-(1 << 15), (1 << 15) - 1),
        "BOOL": st.booleans(),
        "BYTES": st.text(max_size=5),
    }[datatype]
    count = math.prod(shape)
    flat = draw.draw(st.lists(values, min_size=count, max_size=count))
    sent = np.array(flat, dtype=object).reshape(shape).tolist() if nested else flat
    body = json.dumps({"inputs": [tensor("x", shape, sent, datatype)]}).encode()
    read = read_infer(Request(body, JSON), Fields(), 1000, 1 << 20)
    answers = [Outcome(200, b"", value=row.row) for row in read.rows]
    [answer] = json.loads(fold(read, answers, "m", "1").body)["outputs"]
    assert answer == tensor("x", shape, flat, "INT64" if datatype == "INT16" else datatype)


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["inputs", "shape", "data", "name", "datatype", "FP32", "outputs"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["inputs", "shape", "data", "name", "datatype", "outputs", "id"]), inner),
    max_leaves=20,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(max_examples=300)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        assert read_infer(Request(body, JSON), Fields(), 10, 1000).rows
    except RequestError as error:
        assert 400 <= error.status < 500


def test_fields_of_one_value_and_of_bytes() -> None:
    class Raw(Schema):
        """Bytes, bare and in lists."""

        one: bytes
        many: list[bytes] | None = Field(default=None, alias="all")
        text: str

    assert fields_of(WeighedHandler.Request) == Fields(frozenset({"weight", "name"}), frozenset())
    assert fields_of(Raw) == Fields(frozenset({"one", "text"}), frozenset({"one", "all"}))


def test_answers_that_are_no_objects_are_one_output() -> None:
    read = read_infer(Request(b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}'), Fields(), 2, 99)
    answers = [Outcome(200, b"[1,2]"), Outcome(200, b"[3,4]")]
    assert json.loads(fold(read, answers, "m", "1").body)["outputs"] == [
        tensor("output", [2, 2], [1, 2, 3, 4], "INT64")
    ]


def test_outputs_that_only_some_rows_have_come_as_json() -> None:
    read = read_infer(Request(b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}'), Fields(), 2, 99)
    answers = [Outcome(200, b'{"a": 1}'), Outcome(200, b'{"b": null}')]
    found = {one["name"]: one["data"] for one in json.loads(fold(read, answers, "m", "1").body)["outputs"]}
    assert found == {"a": ["1", "null"], "b": ["null", "null"]}
