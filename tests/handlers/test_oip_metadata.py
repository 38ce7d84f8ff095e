"""What a model says of its inputs and outputs to clients of the Open Inference Protocol."""

from __future__ import annotations

import enum
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from tritonclient.grpc import service_pb2 as pb

from handlers.base import ServingHandler
from handlers.contract import (
    OPEN_INFERENCE,
    OPEN_INFERENCE_METADATA,
    PROTOBUF,
    PROTOCOL_HEADER,
    SERVER_VERSION,
    VERSIONS_HEADER,
)
from handlers.embedding import EmbeddingHandler
from handlers.image import ImageHandler
from handlers.protocols.open_inference import describe_model
from handlers.schema import Schema
from handlers.tabular import TabularHandler
from tests.handlers.test_oip import GOLDEN, SAMPLES, WeighedHandler
from tests.support.workers import CHECKOUT, JSON, Item, Worker, unpacked, write_archive_folder


class Colour(enum.Enum):
    """A choice of texts."""

    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    """An object, which is no tensor."""

    x: float


class Everything(Schema):
    """A field of each kind."""

    number: float
    count: int = 3
    flag: bool | None = None
    word: str = Field(alias="the word")
    raw: bytes
    choice: Literal["a", "b"]
    digit: Literal[1, 2] = 1
    colour: Colour
    many: list[int]
    three: Annotated[list[float], Field(min_length=3, max_length=3)]
    grid: Annotated[list[Annotated[list[int], Field(max_length=5)]], Field(min_length=2, max_length=2)]
    one_or_many: str | list[str]
    inner: Inner
    mixed: Literal["a", 1] = 1
    mapping: dict[str, int]


def test_fields_are_inputs_with_the_sizes_that_the_schema_bounds() -> None:
    inputs = describe_model("m", ["1"], Everything, [])["inputs"]
    assert {each["name"]: (each["datatype"], each["shape"]) for each in inputs} == {
        "number": ("FP64", [-1]),
        "count": ("INT64", [-1]),
        "flag": ("BOOL", [-1]),
        "the word": ("BYTES", [-1]),
        "raw": ("BYTES", [-1]),
        "choice": ("BYTES", [-1]),
        "digit": ("INT64", [-1]),
        "colour": ("BYTES", [-1]),
        "many": ("INT64", [-1, -1]),
        "three": ("FP64", [-1, 3]),
        "grid": ("INT64", [-1, 2, -1]),
        "one_or_many": ("BYTES", [-1, -1]),
    }


def test_a_schema_that_contains_itself_has_an_end() -> None:
    class Tree(Schema):
        """A list of itself."""

        children: list[Tree] = []
        leaf: int = 0

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    tree = describe_model("m", ["1"], Tree, [])
    assert tree["inputs"] in ([], [{"name": "leaf", "datatype": "INT64", "shape": [-1]}])


@pytest.mark.parametrize(
    ("answers", "outputs"),
    [
        ([], {}),
        ([{"a": 1, "b": "x"}, {"a": 2.5, "b": "y"}], {"a": ("FP64", [-1]), "b": ("BYTES", [-1])}),
        ([{"a": [1, 2]}, {"a": [3, 4]}], {"a": ("INT64", [-1, 2])}),
        ([{"a": [[1.0, 2.0]]}, {"a": [[3.0, 4.0], [5.0, 6.0]]}], {"a": ("FP64", [-1, -1, 2])}),
        ([{"a": [1]}, {"a": 1}], {"a": ("BYTES", [-1])}),
        ([{"a": {"deep": 1}}], {"a": ("BYTES", [-1])}),
        ([{"a": True}, {"b": False}], {"a": ("BOOL", [-1]), "b": ("BOOL", [-1])}),
        ([{"a": None}], {"a": ("BYTES", [-1])}),
        ([[1.0, 2.0], [3.0, 4.0]], {"output": ("FP64", [-1, 2])}),
        ([3, 4], {"output": ("INT64", [-1])}),
    ],
)
def test_golden_answers_are_the_outputs(answers: list[Any], outputs: dict[str, Any]) -> None:
    metadata = describe_model("m", ["1"], Schema, answers)
    assert {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]} == outputs


def asked(accept: str = JSON, **headers: str) -> Item:
    return Item(b"", "", {PROTOCOL_HEADER: OPEN_INFERENCE_METADATA, "accept": accept, **headers})


def test_a_worker_is_asked_in_json_and_in_a_message_beside_other_requests(tmp_path: Path) -> None:
    worker = Worker(WeighedHandler(), write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, batch_size=4))
    plain, message, other = worker.ask(
        asked(), asked(PROTOBUF, **{VERSIONS_HEADER: "1.0,2.0"}), Item(SAMPLES["one.json"])
    )
    assert plain.json() == {
        "name": "toy",
        "versions": ["1.0"],
        "platform": "pytorch",
        "inputs": [
            {"name": "pair", "datatype": "FP64", "shape": [-1, -1]},
            {"name": "weight", "datatype": "FP64", "shape": [-1]},
            {"name": "name", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "sum", "datatype": "FP64", "shape": [-1]},
            {"name": "name", "datatype": "BYTES", "shape": [-1]},
            {"name": "is_big", "datatype": "BOOL", "shape": [-1]},
            {"name": "digits", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert (plain.media_type, plain.headers["x-model-version"]) == (JSON, "1.0")
    assert (message.media_type, other.status) == (PROTOBUF, 200)
    read = pb.ModelMetadataResponse.FromString(message.body)
    assert (read.name, list(read.versions), read.platform) == ("toy", ["1.0", "2.0"], "pytorch")
    for of_message, of_json in ((read.inputs, "inputs"), (read.outputs, "outputs")):
        assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in of_message] == plain.json()[
            of_json
        ]


@pytest.mark.parametrize(
    ("handler", "model", "inputs", "outputs"),
    [
        (ImageHandler, "digits", [("pixels", "FP64", [-1, 8, 8])], {"label": ("BYTES", [-1])}),
        (EmbeddingHandler, "embeddings", [("text", "BYTES", [-1, -1])], {}),
        (TabularHandler, "breast_cancer", None, {"label": ("BYTES", [-1]), "probability": ("FP64", [-1])}),
    ],
)
def test_what_an_archive_says_is_what_it_takes_and_gives(
    tmp_path: Path, handler: type[ServingHandler], model: str, inputs: Any, outputs: dict[str, Any]
) -> None:
    worker = Worker(handler(), unpacked(model, "1.0", tmp_path))
    said = worker.ask(asked())[0].json()
    if inputs is not None:
        assert [(i["name"], i["datatype"], i["shape"]) for i in said["inputs"]] == inputs
    found = {o["name"]: (o["datatype"], o["shape"]) for o in said["outputs"]}
    assert found.items() >= outputs.items()
    folder = CHECKOUT / "archives" / model / "samples"
    sample = json.loads(sorted(folder.glob("*.json"))[0].read_text())
    tensors = []
    for given in said["inputs"]:
        value = sample[given["name"]]
        if given["name"] == "text":
            value = [value] if isinstance(value, str) else value
        shape = [1, *sizes_of(value)]
        assert all(most in (-1, size) for most, size in zip(given["shape"], shape, strict=True))
        tensors.append({"name": given["name"], "datatype": given["datatype"], "shape": shape, "data": [value]})
    body = json.dumps({"inputs": tensors}).encode()
    [reply] = worker.ask(Item(body, JSON, {PROTOCOL_HEADER: OPEN_INFERENCE}))
    assert reply.status == 200, reply.body
    for output in reply.json()["outputs"]:
        datatype, shape = found[output["name"]]
        assert (output["datatype"], len(output["shape"])) == (datatype, len(shape))


def sizes_of(value: Any) -> list[int]:
    return [len(value), *sizes_of(value[0])] if isinstance(value, list) else []


def test_the_servers_version_is_the_packages() -> None:
    assert tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"] == SERVER_VERSION
