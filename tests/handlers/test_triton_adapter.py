"""Triton's python backend gets the answers that TorchServe's workers give, whole HTTP answers in one tensor."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from handlers import contract
from handlers.contract import (
    CHECK_HEADER,
    CHECK_HEALTH,
    CLASS_HEADER,
    HELD_ENCODING_HEADER,
    MODEL_VERSION_HEADER,
    TIMEOUT_HEADER,
    TRITON_ANSWER,
    TRITON_BODY,
)
from handlers.errors import LoadError
from tests.handlers.test_second_adapter import bad_items
from tests.support import triton_backend
from tests.support.sites import Site, write_tiny
from tests.support.triton_backend import InferenceRequest, Tensor
from tests.support.workers import CHECKOUT, JSON, Item, Reply, unpacked
from tests.support.workers import Worker as TorchServe
from tsctl.archive.build import build_version
from tsctl.archive.container import CONFIG
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.nodes.triton.export import export

triton_backend.install()

from handlers.adapters.triton.entry import Entry  # noqa: E402 - needs the backend's module

MEDIA_TYPES = {".json": JSON, ".png": "image/png", ".jpg": "image/jpeg"}


def model_folder(model: str, version: str, folder: Path) -> Path:
    """The folder of one model of a repository, with the archive in it."""
    config = unpacked(model, version, folder / "1" / "archive") / CONFIG
    content = yaml.safe_load(config.read_text())
    content["serving"]["warmup"]["budget_s"] = 0.1
    config.write_text(yaml.safe_dump(content))
    return folder


def arguments(folder: Path, **changes: str) -> dict[str, str]:
    """What Triton says to a new instance."""
    given = {
        "model_config": json.dumps({"input": [{"name": TRITON_BODY}]}),
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }
    return {**given, **changes}


@pytest.fixture(autouse=True)
def same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance changes its process's folder; this process gets its own back."""
    monkeypatch.chdir(CHECKOUT)


@pytest.fixture(scope="module")
def cancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    yield loaded("breast_cancer", "1.0", tmp_path_factory.mktemp("cancer"))


def loaded(model: str, version: str, folder: Path) -> Entry:
    entry = Entry()
    entry.initialize(arguments(model_folder(model, version, folder)))
    return entry


def ask(entry: Entry, *items: Item) -> list[Reply]:
    """The replies to one batch."""
    requests = [
        InferenceRequest(
            [Tensor(TRITON_BODY, np.frombuffer(item.body, np.uint8)[np.newaxis])],
            {**({"Content-Type": item.media_type} if item.media_type else {}), **item.headers, "priority": 3},
            f"request-{number}",
        )
        for number, item in enumerate(items)
    ]
    return [reply_of(response) for response in entry.execute(requests)]


def reply_of(response: Any) -> Reply:
    [tensor] = response.output_tensors()
    assert tensor.name() == TRITON_ANSWER
    array = tensor.as_numpy()
    assert (array.dtype, array.shape) == (np.uint8, (1, array.size))
    head, _, body = array.tobytes().partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(status), headers["content-type"], headers, body)


def test_triton_answers_as_torchserve(cancer: Entry, breast_cancer: TorchServe) -> None:
    samples = sorted((breast_cancer.folder / "samples").iterdir())
    items = {path.name: Item(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in samples}
    good = next(item.body for item in items.values() if item.media_type == JSON)
    items |= bad_items(good, breast_cancer.entry.worker.config.request_bytes)
    for name, item in items.items():
        [expected] = breast_cancer.ask(item)
        [reply] = ask(cancer, item)
        assert reply == expected, name
        assert reply.headers[MODEL_VERSION_HEADER] == "1.0"
        assert (CLASS_HEADER in reply.headers) == (reply.status == 200), name


def test_a_batch_has_one_answer_for_each_request_in_order(cancer: Entry) -> None:
    good = sample("breast_cancer")
    replies = ask(cancer, Item(good), Item(b"{"), Item(good, "text/plain"), Item(good))
    assert [reply.status for reply in replies] == [200, 400, 415, 200]
    assert replies[0] == replies[3]
    assert [reply.json().get("request_id") for reply in replies[1:3]] == ["request-1", "request-2"]


def test_a_held_content_encoding_is_decoded_by_the_worker_within_its_limit(cancer: Entry) -> None:
    good = sample("breast_cancer")
    packed = Item(gzip.compress(good), headers={HELD_ENCODING_HEADER: "gzip"})
    bomb = Item(gzip.compress(bytes(1 << 20)), headers={HELD_ENCODING_HEADER: "gzip"})
    replies = ask(cancer, packed, bomb, Item(good))
    assert [reply.status for reply in replies] == [200, 413, 200]
    assert replies[0] == replies[2]


def test_a_failed_health_check_is_an_error_of_triton_and_a_good_one_an_answer(cancer: Entry) -> None:
    check = {CHECK_HEADER: CHECK_HEALTH}
    good, bad, busy = (
        InferenceRequest([Tensor(TRITON_BODY, np.frombuffer(body, np.uint8)[np.newaxis])], {**check, **more})
        for body, more in ((sample("breast_cancer"), {}), (b"{", {}), (b"{", {TIMEOUT_HEADER: "0"}))
    )
    responses = cancer.execute([good, bad, busy])
    assert reply_of(responses[0]).status == 200
    assert [response.error().code() for response in responses[1:]] == [triton_backend.TritonError.INTERNAL] * 2


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    """The model with the inputs and outputs that `tsctl export triton` writes."""
    folder = model_folder("breast_cancer", "1.0", tmp_path_factory.mktemp("typed"))
    outputs = [{"name": "label", "data_type": "TYPE_STRING"}, {"name": "probability", "data_type": "TYPE_FP64"}]
    config = {"input": [{"name": "mean_radius"}, {"name": "mean_texture"}], "output": outputs}
    entry = Entry()
    entry.initialize(arguments(folder, model_config=json.dumps(config)))
    yield entry
    os.chdir(CHECKOUT)


def columns(*rows: dict[str, float], dtype: Any = np.float64) -> list[Tensor]:
    return [Tensor(name, np.array([[row[name]] for row in rows], dtype)) for name in rows[0]]


def test_rows_of_tensors_are_answered_in_the_datatypes_of_config_pbtxt(typed: Entry, cancer: Entry) -> None:
    row = json.loads(sample("breast_cancer"))
    plain = ask(cancer, Item(sample("breast_cancer")))[0].json()
    both, one = typed.execute(
        [InferenceRequest(columns(row, row)), InferenceRequest(columns(row, dtype=np.float32), outputs=["label"])]
    )
    tensors = {tensor.name(): tensor.as_numpy() for tensor in both.output_tensors()}
    assert tensors["label"].tolist() == [[plain["label"].encode()]] * 2
    assert tensors["probability"].dtype == np.float64
    assert tensors["probability"].tolist() == pytest.approx(np.full((2, 1), plain["probability"]), abs=1e-6)
    assert [tensor.name() for tensor in one.output_tensors()] == ["label"]


def test_a_row_that_does_not_fit_is_an_error_of_its_request_alone(typed: Entry) -> None:
    row = json.loads(sample("breast_cancer"))
    wrong = {**row, "mean_radius": 1e9}
    texts = [Tensor("mean_radius", np.array([[b"x"]], dtype=object)), *columns(row)[1:]]
    refused, good, text = typed.execute(
        [
            InferenceRequest(columns(row, wrong), given_id="mine"),
            InferenceRequest(columns(row)),
            InferenceRequest(texts),
        ]
    )
    assert good.error() is None
    for response, said in ((refused, "Row 1: mean_radius"), (text, "mean_radius")):
        assert response.error().code() == triton_backend.TritonError.INVALID_ARG
        assert said in response.error().message()


TEXTS = np.array([b"a"], dtype=object)


@pytest.mark.parametrize(
    ("datatype", "values", "expected"),
    [
        ("FP64", np.array([1, -(2**53)]), [1.0, -(2.0**53)]),
        ("FP64", np.array([1, 2**53 + 1]), None),
        ("FP64", np.array([2**63 - 1]), None),
        ("FP32", np.array([0.1]), [np.float32(0.1)]),  # written by hand: the operator asks for these few digits
        ("FP32", np.array([1e300]), None),
        ("FP32", np.array([2**24 + 1]), None),
        ("INT64", np.array([1]), [1]),
        ("INT64", np.array([2.0, -3.0]), [2, -3]),
        ("INT64", np.array([0.7]), None),
        ("INT64", np.array([1.9]), None),
        ("INT64", np.array([2.0**63]), None),
        ("UINT8", np.array([-1]), None),
        ("INT8", np.array([127]), [127]),
        ("INT8", np.array([128]), None),
        ("BOOL", np.array([0.3]), None),
        ("BOOL", np.array([1]), None),
        ("FP64", np.array([True]), None),
        ("BYTES", TEXTS, [b"a"]),
        ("BYTES", np.array([1.5]), None),  # a client could not tell it from the text "1.5"
        ("FP64", TEXTS, None),
        ("JSON", TEXTS, [b'"a"']),
        ("JSON", np.array([1.5, 2.0]), [b"1.5", b"2.0"]),
        ("JSON", np.array([[1, 2]]), [b"[1,2]"]),
    ],
)
def test_an_output_has_the_datatype_that_its_model_declares_or_is_refused(
    datatype: str, values: Any, expected: Any
) -> None:
    from handlers.adapters.triton.typed import _as

    array = _as(datatype, values, holds_json=False)
    assert (array.tolist() if array is not None else None) == expected


def test_a_json_text_is_given_as_it_is_and_never_as_a_text() -> None:
    from handlers.adapters.triton.typed import _as

    null = np.array([b"null"], dtype=object)
    assert _as("JSON", null, holds_json=True) is null
    assert _as("BYTES", null, holds_json=True) is None
    assert _as("FP64", null, holds_json=True) is None


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    """A model as `tsctl export triton` writes it, whose golden answer has an integer score and no note."""
    root = tmp_path_factory.mktemp("exported")
    write_tiny(Site(root), "tiny", {"1.0": {}})
    folder = root / "archives" / "tiny"
    (folder / "handler.py").write_text(SCORING)
    (folder / "golden" / "1.0.json").write_text(
        '{"half.json": {"score": 0, "ok": true, "what": "a", "more": {"n": 1}}}'
    )
    built = build_version(Project(root), folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    export(built.archive.path, root / "models")
    text = (root / "models" / "tiny" / "config.pbtxt").read_text()
    assert [line for line in text.splitlines() if line.startswith(("input", "output", "parameters"))] == [
        'input [{ name: "x" data_type: TYPE_FP64 dims: [1] allow_ragged_batch: true }]',
        'input [{ name: "answer" data_type: TYPE_STRING dims: [1] optional: true allow_ragged_batch: true }]',
        'output [{ name: "score" data_type: TYPE_FP64 dims: [1] }]',
        'output [{ name: "ok" data_type: TYPE_BOOL dims: [1] }]',
        'output [{ name: "what" data_type: TYPE_STRING dims: [1] }]',
        'output [{ name: "more" data_type: TYPE_STRING dims: [1] }]',
        'parameters { key: "tsctl_json_outputs" value { string_value: "[\\"more\\"]" } }',
    ]
    config = {
        "input": [{"name": "x"}, {"name": "answer"}],
        "output": [
            {"name": name, "data_type": f"TYPE_{datatype}"}
            for name, datatype in (("score", "FP64"), ("ok", "BOOL"), ("what", "STRING"), ("more", "STRING"))
        ],
        "parameters": {"tsctl_json_outputs": {"string_value": '["more"]'}},
    }
    entry = Entry()
    archive = root / "models" / "tiny" / "1" / "archive"
    shutil.rmtree(archive / "handlers")  # this process has those of the checkout
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(archive)  # as model.py does in Triton's process
        patch.delitem(sys.modules, "handler", raising=False)
        entry.initialize(arguments(root / "models" / "tiny", model_config=json.dumps(config)))
        patch.delitem(sys.modules, "handler")
    yield entry
    os.chdir(CHECKOUT)


SCORING = """
import json

from handlers.base import ServingHandler
from handlers.schema import Schema


class Scoring(ServingHandler):
    class Request(Schema):
        x: float
        answer: str = '{"score": 0, "ok": true, "what": "a", "more": {"n": 1}}'

    def load(self):
        pass

    def preprocess(self, items):
        return [json.loads(item.answer) for item in items]

    def inference(self, inputs):
        return inputs

    def postprocess(self, outputs):
        return outputs
"""
KNOWN = {"score": 0, "ok": True, "what": "a", "more": {"n": 1}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"score": 0.7}, {"score": [[0.7]]}),
        ({"score": 1.9}, {"score": [[1.9]]}),
        ({"score": -5}, {"score": [[-5.0]]}),
        ({"score": 2**62}, {"score": [[float(2**62)]]}),
        ({"score": 2**63 + 5}, "score"),
        ({"score": 2**53 + 1}, "score"),
        ({"score": True}, "score"),
        ({"score": [0.5, 1.5]}, {"score": [[0.5, 1.5]]}),
        ({"ok": 0.3}, "ok"),
        ({"ok": 7}, "ok"),
        ({"what": 7}, "what"),
        ({"what": None}, "what"),
        ({"more": "a"}, {"more": [[b'"a"']]}),
        ({"more": 1.5}, {"more": [[b"1.5"]]}),
        ({"more": None}, {"more": [[b"null"]]}),
        (
            {"note": "of this answer alone"},
            {"score": [[0.0]], "ok": [[True]], "what": [[b"a"]], "more": [[b'{"n":1}']]},
        ),
    ],
)
def test_an_answer_is_given_as_it_is_or_refused_with_the_name_of_its_output(
    exported: Entry, changed: dict[str, Any], expected: Any
) -> None:
    inputs = [
        Tensor("x", np.array([[0.5]])),
        Tensor("answer", np.array([[json.dumps({**KNOWN, **changed}).encode()]], dtype=object)),
    ]
    response, beside = exported.execute([InferenceRequest(inputs), InferenceRequest(inputs[:1])])
    if isinstance(expected, str):
        assert response.error().code() == triton_backend.TritonError.INTERNAL
        assert f"for {expected}; config.pbtxt declares " in response.error().message()
    else:
        given = {tensor.name(): tensor.as_numpy().tolist() for tensor in response.output_tensors()}
        assert {name: given[name] for name in expected} == expected
        assert list(given) == ["score", "ok", "what", "more"]
    assert beside.error() is None
    [score, *_] = beside.output_tensors()
    assert score.as_numpy().tolist() == [[0.0]], "an input that the client left out has its default"


def test_a_required_field_that_no_tensor_can_fill_is_not_exported(tmp_path: Path) -> None:
    write_tiny(Site(tmp_path), "tiny", {"1.0": {}})
    folder = tmp_path / "archives" / "tiny"
    (folder / "handler.py").write_text(SCORING.replace("x: float", "x: float\n        nested: dict[str, int]"))
    (folder / "samples" / "half.json").write_text('{"x": 0.5, "nested": {}}')
    (folder / "golden" / "1.0.json").write_text(json.dumps({"half.json": KNOWN}))
    built = build_version(Project(tmp_path), folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    with pytest.raises(ArchiveError, match="needs nested, which a tensor cannot fill"):
        export(built.archive.path, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    export(built.archive.path, tmp_path / "models", is_raw=True)


# ---- the instance ----------------------------------------------------------------------------------------------------


def test_what_must_not_serve_says_why_and_is_logged(tmp_path: Path, said: Any) -> None:
    folder = model_folder("breast_cancer", "1.0", tmp_path)
    golden = folder / "1" / "archive" / "golden.json"
    wrong = json.loads(golden.read_text())
    next(iter(wrong.values()))["label"] = "neither"
    golden.write_text(json.dumps(wrong))
    with pytest.raises(LoadError, match=r"must not serve: sample .*, is not the golden answer: label"):
        Entry().initialize(arguments(folder))
    [report] = said()
    assert (report["outcome"], report["version"]) == ("refused", "1.0")


def test_a_gpu_is_that_of_the_instance_where_torch_sees_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handlers.adapters.triton.entry import worker_config

    archive = model_folder("breast_cancer", "1.0", tmp_path) / "1" / "archive"
    third = arguments(tmp_path, model_instance_kind="GPU", model_instance_device_id="2")
    assert worker_config(archive, third).gpu_id is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert worker_config(archive, third).gpu_id == 2
    assert worker_config(archive, arguments(tmp_path)).gpu_id is None


def test_the_names_in_config_pbtxt_come_before_those_of_the_archive(tmp_path: Path) -> None:
    from handlers.adapters.triton.entry import worker_config

    archive = model_folder("breast_cancer", "1.0", tmp_path) / "1" / "archive"
    assert (worker_config(archive, arguments(tmp_path)).model, "1.0") == ("breast_cancer", "1.0")
    named = {"tsctl_model": {"string_value": "cancer"}, "tsctl_version": {"string_value": "1.0t"}}
    config = worker_config(archive, arguments(tmp_path, model_config=json.dumps({"parameters": named})))
    assert (config.model, config.version) == ("cancer", "1.0t")


def test_a_batch_that_does_not_end_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own, which never gives up the interpreter."""
    code = """
import signal, sys
from tests.support import triton_backend
from tests.support.sites import Site, write_tiny
triton_backend.install()
from handlers.adapters.triton.entry import Entry
class Stuck:
    def answer(self, requests):
        return pow(7, 10**9)
entry = Entry()
entry._worker, entry._batch_s, entry._execute = Stuck(), 0.2, lambda worker, requests: worker.answer(requests)
entry.execute([])
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, timeout=60, check=False)
    assert ended.returncode == -14  # SIGALRM


def test_a_load_that_does_not_end_ends_the_process(tmp_path: Path) -> None:
    folder = model_folder("breast_cancer", "1.0", tmp_path)
    content = folder / "1" / "archive" / "model-config.yaml"
    content.write_text(f"{content.read_text()}\nstartupTimeout: 0.2\n")
    code = """
import json, sys
from tests.support import triton_backend
from tests.support.sites import Site, write_tiny
triton_backend.install()
from handlers.adapters.triton import entry
entry.Worker = lambda handler, config: pow(7, 10**9)
entry.Entry().initialize(json.loads(sys.argv[1]))
"""
    command = [sys.executable, "-c", code, json.dumps(arguments(folder))]
    ended = subprocess.run(command, cwd=CHECKOUT, timeout=60, check=False)
    assert ended.returncode == -14  # SIGALRM


def test_the_file_that_triton_loads_runs_the_archive_beside_it_and_finds_the_other_libraries(tmp_path: Path) -> None:
    version, libraries = tmp_path / "1", tmp_path / "libraries"
    package = version / "archive" / "handlers" / "adapters" / "triton"
    package.mkdir(parents=True)
    libraries.mkdir()
    (libraries / "only_there.py").write_text("FOUND = 'in the libraries'\n")
    for folder in (package, package.parent, package.parents[1]):
        (folder / "__init__.py").touch()
    (package / "entry.py").write_text("import only_there\nclass Entry:\n    text = only_there.FOUND\n")
    shutil.copy(CHECKOUT / "handlers" / "adapters" / "triton" / "model.py", version / "model.py")
    code = "import model; print(model.TritonPythonModel.text)"
    environment = {"PYTHONPATH": str(version), contract.LIBRARIES_VARIABLE: str(libraries)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, timeout=60, check=True, capture_output=True
    )
    assert ended.stdout == b"in the libraries\n"


def sample(archive: str) -> bytes:
    return sorted((CHECKOUT / "archives" / archive / "samples").glob("*.json"))[0].read_bytes()
