"""What `make bench-oip` asks and writes: encodings, and the table of docs/oip.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ARCHIVES
from benchmarks.protocol import asking, questions
from benchmarks.protocol.asking import BINARY, GRPC, JSON, Answer, InferRequest, Tensor
from benchmarks.protocol.questions import EXPECTED, GOOD, QUESTIONS, SAMPLES, in_each_encoding
from benchmarks.protocol.servers import INPUTS, MODEL, Place, mlserver, triton
from benchmarks.protocol.table import markdown, read_equal, read_rows
from tests.support.sites import CHECKOUT

PLACE = Place("127.0.0.1:1", "127.0.0.1:2", MODEL, "1.0")


def test_a_table_has_the_differences_and_a_sentence_the_rest() -> None:
    answers = {
        "here": {"a": "1", "b; of c": "x, y", "d": "e"},
        "Triton": {"a": "1", "b; of c": "z", "d": "e"},
        "MLServer": {"a": "1", "b; of c": "x, y", "d": "e"},
    }
    text = f"Before.\n\n{markdown(answers)}\n\nBehind."
    assert read_equal(text) == ["a", "d"]
    assert read_rows(text) == {"b; of c": {"here": "x, y", "Triton": "z", "MLServer": "x, y"}}
    assert read_equal(text.replace("a; d.", "a;\nd.")) == ["a", "d"], "a sentence may be wrapped"
    assert read_equal("") == []


def test_no_question_can_be_taken_for_two() -> None:
    assert not [title for title in QUESTIONS if "; " in title or "|" in title or title.endswith(".")]
    page = (CHECKOUT / "docs" / "oip.md").read_text()
    section = page.partition("\n## Beside Triton and MLServer\n")[2].partition("\n## ")[0]
    assert {*read_rows(section), *read_equal(section)} == set(QUESTIONS)


@pytest.mark.parametrize("name", INPUTS)
def test_values_in_binary_come_back(name: str) -> None:
    tensor = GOOD.inputs[name]
    assert asking._values(tensor.datatype, tensor.raw) == list(tensor.values)


def test_a_request_has_its_values_in_the_json_or_behind_it() -> None:
    body, headers = asking._body(GOOD, JSON)
    inputs = json.loads(body)["inputs"]
    assert [tensor["data"] for tensor in inputs][1:] == [
        [row[name] for row in SAMPLES] for name in ("count", "is_on", "text")
    ]
    nested = Tensor("FP64", [2, 2], [1.0, 2.0, 3.0, 4.0], is_nested=True)
    assert nested.data == [[1.0, 2.0], [3.0, 4.0]]
    body, headers = asking._body(GOOD, BINARY)
    length = int(headers[asking.HEADER_LENGTH])
    document = json.loads(body[:length])
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in document["inputs"]]
    assert sum(sizes) == len(body) - length and document["parameters"] == {"binary_data_output": True}
    chosen = InferRequest(GOOD.inputs, outputs={"total": False, "doubled": True})
    document = json.loads(asking._body(chosen, BINARY)[0].partition(b"}]}")[0] + b"}]}")
    assert [output["parameters"] for output in document["outputs"]] == [{"binary_data": False}, {"binary_data": True}]


def test_bytes_that_belong_to_no_output_are_an_error() -> None:
    described = {"name": "total", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    document: dict[str, Any] = {"outputs": [described]}
    asking._add_data(document, bytes(8))
    assert document["outputs"][0]["data"] == [0.0]
    with pytest.raises(ValueError, match="8 bytes in binary, and there are 9"):
        asking._add_data(document, bytes(9))


def test_an_answer_that_differs_between_encodings_says_in_which(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {JSON: "a", BINARY: "a", GRPC: "b"}
    monkeypatch.setattr(
        questions, "ask", lambda place, request, encoding: Answer("200", document={"id": said[encoding]})
    )
    question = in_each_encoding(lambda answer: str(answer.document["id"]))
    assert question(PLACE) == "a; b over gRPC"
    said[GRPC] = "a"
    assert question(PLACE) == "a"
    said[BINARY] = "c"
    assert question(PLACE) == "a in JSON; c in binary; a over gRPC"


def test_a_wrong_value_is_named() -> None:
    def given(total: list[float]) -> Answer:
        flat = {name: [value for row in rows for value in row] for name, rows in EXPECTED.items() if name == "doubled"}
        data: dict[str, list[Any]] = {**EXPECTED, **flat, "total": total}
        data["lengths"] = [json.dumps(value) for value in EXPECTED["lengths"]]
        return Answer("200", document={"outputs": [{"name": name, "data": value} for name, value in data.items()]})

    assert questions.values(given(EXPECTED["total"])) == "the model's"
    assert questions.values(given([1.25, 4.0])) == "total is [1.25, 4.0]"


def test_the_servers_get_the_model_and_its_tensors(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    peer = mlserver(python, tmp_path / "mlserver")
    peer.prepare([8001, 8002, 8003])
    settings = json.loads((tmp_path / "mlserver" / "model-settings.json").read_text())
    assert [tensor["name"] for tensor in settings["inputs"]] == list(INPUTS)
    assert str(ARCHIVES / MODEL) in peer.environment["PYTHONPATH"]
    assert triton(python, tmp_path).ports == 2
    command = triton(python, tmp_path).command([8001, 8002])
    assert "--grpc-port=8002" in command and f"--model-repository={tmp_path / 'repository'}" in command
