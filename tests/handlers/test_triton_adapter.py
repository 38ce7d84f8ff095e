"""Triton's python backend gets the answers that TorchServe's workers give, whole HTTP answers in one tensor."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers import contract
from handlers.contract import CLASS_HEADER, HELD_ENCODING_HEADER, MODEL_VERSION_HEADER, TRITON_ANSWER, TRITON_BODY
from handlers.errors import LoadError
from tests.handlers.test_second_adapter import bad_items
from tests.support import triton_backend
from tests.support.triton_backend import InferenceRequest, Tensor
from tests.support.workers import CHECKOUT, JSON, Item, Reply, unpacked
from tests.support.workers import Worker as TorchServe

triton_backend.install()

from handlers.adapters.triton.entry import Entry  # noqa: E402 - needs the backend's module

MEDIA_TYPES = {".json": JSON, ".png": "image/png", ".jpg": "image/jpeg"}


def model_folder(model: str, version: str, folder: Path) -> Path:
    """The folder of one model of a repository, with the archive in it."""
    unpacked(model, version, folder / "1" / "archive")
    return folder


def arguments(folder: Path, **changes: str) -> dict[str, str]:
    """What Triton says to a new instance."""
    given = {
        "model_config": "{}",
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


@pytest.mark.parametrize("archive", ["digits", "breast_cancer"])
def test_triton_answers_as_torchserve(archive: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first: TorchServe = request.getfixturevalue(archive)
    entry = loaded(archive, first.entry.worker.config.version, tmp_path)
    samples = sorted((first.folder / "samples").iterdir())
    items = {path.name: Item(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in samples}
    good = next(item.body for item in items.values() if item.media_type == JSON)
    items |= bad_items(good, first.entry.worker.config.request_bytes)
    for name, item in items.items():
        [expected] = first.ask(item)
        [reply] = ask(entry, item)
        assert reply == expected, name
        assert reply.headers[MODEL_VERSION_HEADER] == first.entry.worker.config.version
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
triton_backend.install()
from handlers.adapters.triton.entry import Entry
class Stuck:
    def answer(self, requests):
        return pow(7, 10**9)
entry = Entry()
entry._worker, entry._batch_s = Stuck(), 0.2
entry.execute([])
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, timeout=60, check=False)
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
