"""ONNX models of every shape: what they take and give comes from the model, and each item is answered by itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import LoadError
from handlers.onnx import OnnxHandler
from tests.support.workers import Item, Reply, Worker, assert_problem, write_archive_folder

Value = tuple[str, str, Sequence[int | str | None]]  # name, type of TensorProto, shape


def save_model(
    path: Path, nodes: Sequence[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]],
    inputs: Sequence[Value], outputs: Sequence[Value | str], constants: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write an ONNX model of these nodes: operator, inputs, outputs, attributes; an output alone has no type."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx import save_model as save

    def info(value: Value | str) -> Any:
        if isinstance(value, str):
            return helper.make_empty_tensor_value_info(value)
        return helper.make_tensor_value_info(value[0], getattr(TensorProto, value[1]), value[2])

    made = []
    for operator, taken, given, attributes in nodes:
        domain = "ai.onnx.ml" if operator == "ZipMap" else None
        made.append(helper.make_node(operator, list(taken), list(given), domain=domain, **attributes))
    initializers = [numpy_helper.from_array(np.asarray(v), name) for name, v in (constants or {}).items()]
    graph = helper.make_graph(made, "toy", [info(i) for i in inputs], [info(o) for o in outputs], initializers)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    save(helper.make_model(graph, opset_imports=versions, ir_version=9), path)
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Worker]:
    """A worker of an ONNX model that answers a sample as it should."""

    def made(model: Path, request: Any, answer: Any, **settings: Any) -> Worker:
        samples, golden = {"one.json": json.dumps(request).encode()}, {"one.json": answer}
        serving = {"limits": {"request_bytes": 1 << 20}}
        folder = write_archive_folder(tmp_path / "toy", samples, golden, settings, serving, weights=model)
        return Worker(OnnxHandler(), folder)

    return made


@pytest.fixture(scope="module")
def wine(unpack_example: Callable[[str], Path]) -> Worker:
    return Worker(OnnxHandler(), unpack_example("wine"))


def post(worker: Worker, *requests: Any) -> list[Reply]:
    return worker.ask(*(Item(json.dumps(request).encode()) for request in requests))


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_a_classifier_answers_label_and_probabilities(wine: Worker) -> None:
    sample = json.loads((wine.folder / "samples" / "second.json").read_bytes())
    [reply] = post(wine, sample)
    answer = reply.json()
    assert answer["label"] == "second"
    assert sum(answer["probabilities"]) == pytest.approx(1)
    assert reply.headers["x-prediction-class"] == "second"
    as_file = wine.ask_one(npy(np.array(sample["properties"])), "application/x-npy")
    assert as_file.json() == answer


WRONG: dict[str, tuple[Any, str]] = {
    "too few": ({"properties": [1.0] * 12}, "properties"),
    "a text": ({"properties": ["1"] + [1.0] * 12}, "properties.0"),
    "too large for float32": ({"properties": [1e39] * 13}, "properties.0"),
    "nothing": ({}, "properties"),
    "another input": ({"properties": [1.0] * 13, "more": 1}, "more"),
}


@pytest.mark.parametrize(("request_", "field"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named_and_its_neighbour_answered(wine: Worker, request_: Any, field: str) -> None:
    good = json.loads((wine.folder / "samples" / "first.json").read_bytes())
    wrong, right = post(wine, request_, good)
    assert [error["field"] for error in assert_problem(wrong, 422)["errors"]] == [field]
    assert right.json()["label"] == "first"


FILES: dict[str, tuple[bytes, int]] = {
    "no file": (b"NUMPY", 400),
    "a cut file": (npy(np.zeros(13))[:-1], 400),
    "objects": (npy(np.array([{}] * 13, dtype=object)), 400),
    "another shape": (npy(np.zeros((13, 1))), 422),
    "another size": (npy(np.zeros(12)), 422),
    "complex numbers": (npy(np.zeros(13, dtype=complex)), 422),
    "not finite": (npy(np.full(13, np.nan)), 422),
    "too large for float32": (npy(np.full(13, 1e39)), 422),
}


@pytest.mark.parametrize(("body", "status"), FILES.values(), ids=FILES)
def test_files_that_do_not_fit_are_refused(wine: Worker, body: bytes, status: int) -> None:
    assert_problem(wine.ask_one(body, "application/x-npy"), status)


def test_clients_of_the_open_inference_protocol_see_the_models_own_inputs(wine: Worker) -> None:
    metadata = wine.entry.worker.protocols.metadata()
    assert metadata["inputs"] == [{"name": "properties", "datatype": "FP64", "shape": [-1, 13]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]


def test_items_of_different_lengths_and_several_inputs(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "sum.onnx",
        [("Mul", ["x", "w"], ["xw"], {}), ("ReduceSum", ["xw", "axes"], ["total"], {"keepdims": 0})],
        [("x", "FLOAT", ["batch", "length"]), ("w", "FLOAT", ["batch", "length"])],
        [("total", "FLOAT", ["batch"])],
        {"axes": np.array([1])},
    )
    worker = serve(model, {"x": [1, 2], "w": [3, 4]}, {"total": 11.0})
    requests = [{"x": [1.0] * size, "w": [0.1] * size} for size in (3, 1, 3, 2)]
    assert [reply.json()["total"] for reply in post(worker, *requests)] == [0.3, 0.1, 0.3, 0.2]
    [differ] = post(worker, {"x": [1, 2], "w": [1]})
    assert assert_problem(differ, 422)["detail"] == "w: its size length is 1, and that of x is 2."
    [empty] = post(worker, {"x": [], "w": []})
    assert assert_problem(empty, 422)["errors"][0]["field"] == "x"
    assert_problem(worker.ask_one(npy(np.zeros(2)), "application/x-npy"), 415)


def test_nested_lists_that_differ_in_length_are_refused(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [("Identity", ["x"], ["y"], {})],
        [("x", "INT64", ["b", "rows", "columns"])],
        [("y", "INT64", ["b", "rows", "columns"])],
    )
    worker = serve(model, {"x": [[1, 2]]}, {"y": [[1, 2]]})
    [reply] = post(worker, {"x": [[1, 2], [3]]})
    assert assert_problem(reply, 422)["detail"] == "x: its lists differ in length."
    [reply] = post(worker, {"x": [[1.5]]})
    assert assert_problem(reply, 422)["errors"][0]["field"] == "x.0.0"


@pytest.mark.parametrize(("size", "settings"), [(1, {}), (4, {"batch_axis": 0})])
def test_a_model_of_a_fixed_batch(
    tmp_path: Path, serve: Callable[..., Worker], size: int, settings: dict[str, Any]
) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [("Mul", ["x", "two"], ["y"], {})],
        [("x", "FLOAT", [size, 2])],
        [("y", "FLOAT", [size, 2])],
        {"two": np.float32(2)},
    )
    worker = serve(model, {"x": [1, 2]}, {"y": [2.0, 4.0]}, **settings)
    answers = post(worker, *({"x": [number, 0]} for number in range(6)))
    assert [reply.json()["y"][0] for reply in answers] == [0, 2, 4, 6, 8, 10]


def test_a_model_without_a_batch_takes_an_item_at_a_time(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [("Add", ["x", "step"], ["y"], {})],
        [("x", "FLOAT", [3]), ("step", "FLOAT", [])],
        [("y", "FLOAT", [3])],
    )
    worker = serve(model, {"x": [1, 2, 3], "step": 1}, {"y": [2.0, 3.0, 4.0]})
    answers = post(worker, *({"x": [0, 0, 0], "step": number} for number in range(3)))
    assert [reply.json()["y"] for reply in answers] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_another_axis_counts_the_items_where_the_settings_say(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [("CumSum", ["x", "axis"], ["y"], {})],
        [("x", "FLOAT", ["time", "batch"])],
        [("y", "FLOAT", ["time", "batch"])],
        {"axis": np.int64(0)},
    )
    worker = serve(model, {"x": [1, 2]}, {"y": [1.0, 3.0]}, batch_axis=1)
    assert [reply.json()["y"] for reply in post(worker, {"x": [5, 5]}, {"x": [1, 1]})] == [[5, 10], [1, 2]]


def test_texts_and_maps(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [
            ("Identity", ["word"], ["same"], {}),
            ("ZipMap", ["scores"], ["by_class"], {"classlabels_strings": ["no", "yes"]}),
        ],
        [("word", "STRING", ["n"]), ("scores", "FLOAT", ["n", 2])],
        [("same", "STRING", ["n"]), "by_class"],
    )
    worker = serve(model, {"word": "ä", "scores": [0.1, 0.9]}, {"same": "ä", "by_class": {"no": 0.1, "yes": 0.9}})
    [one, two] = post(worker, {"word": "a", "scores": [1, 0]}, {"word": "b", "scores": [0.25, 0.75]})
    assert one.json() == {"same": "a", "by_class": {"no": 1.0, "yes": 0.0}}
    assert two.json()["by_class"] == {"no": 0.25, "yes": 0.75}


def test_an_output_without_a_batch_says_what_to_set(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [("ReduceSum", ["x"], ["y"], {"keepdims": 0})],
        [("x", "FLOAT", ["n", 2])],
        [("y", "FLOAT", [])],
    )
    with pytest.raises(LoadError, match=r"set settings\.batch_axis, null"):
        serve(model, {"x": [1, 2]}, {"y": 3.0})


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "labels without an activation": ({"labels": ["a", "b"]}, "needs settings.activation: softmax if y has logits"),
    "an unknown output": ({"outputs": ["z"]}, "name the output z, and the model has: y"),
    "a provider that is not there": ({"providers": ["ROCMExecutionProvider"]}, "has no ROCMExecutionProvider"),
    "an axis that is not there": ({"batch_axis": 2}, "the input x has no such dimension"),
    "too few labels": ({"labels": ["a"], "activation": "none"}, "2 values for 1 settings.labels"),
}


@pytest.mark.parametrize(("settings", "reason"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_do_not_fit_the_model_are_named(
    tmp_path: Path, serve: Callable[..., Worker], settings: dict[str, Any], reason: str
) -> None:
    model = save_model(
        tmp_path / "m.onnx", [("Identity", ["x"], ["y"], {})], [("x", "FLOAT", ["n", 2])], [("y", "FLOAT", ["n", 2])]
    )
    with pytest.raises(LoadError, match=reason):
        serve(model, {"x": [1, 2]}, {"y": [1.0, 2.0]}, **settings)


def test_two_classes_of_one_logit(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    model = save_model(
        tmp_path / "m.onnx", [("Identity", ["x"], ["y"], {})], [("x", "FLOAT", ["n", 1])], [("y", "FLOAT", ["n", 1])]
    )
    golden = {"label": "no", "probabilities": [0.5, 0.5]}
    worker = serve(model, {"x": [0]}, golden, labels=["no", "yes"], activation="sigmoid")
    [reply] = post(worker, {"x": [3]})
    assert reply.json() == {"label": "yes", "probabilities": [pytest.approx(0.04742587), pytest.approx(0.9525741)]}


def test_a_file_that_is_no_model_is_named(tmp_path: Path, serve: Callable[..., Worker]) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00broken")
    with pytest.raises(LoadError, match=r"broken\.onnx cannot be loaded by onnxruntime"):
        serve(tmp_path / "broken.onnx", {}, {})
