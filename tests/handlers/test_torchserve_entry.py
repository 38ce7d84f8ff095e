"""The module that every manifest names: it finds the author's class, and calls it as the class wants to be called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ts.utils.util import list_classes_from_module

from handlers.adapters.torchserve import entry
from handlers.adapters.torchserve.context import longest_answer, worker_config
from handlers.errors import LoadError
from tests.support.workers import Item, Worker, write_archive_folder
from tsctl.archive.build import ENTRY
from tsctl.archive.container import CONFIG

SAMPLES = {"two.json": b'{"number": 2}'}
GOLDEN = {"two.json": {"double": 4.0}}
HANDLER = """
import torch
from handlers.base import ServingHandler
from handlers.schema import Schema

class Doubler(ServingHandler):
    class Request(Schema):
        number: float

    def load(self):
        self.marks = getattr(self, "marks", []) + ["loaded"]

    def preprocess(self, items):
        return torch.tensor([item.number for item in items])

    def inference(self, inputs):
        return inputs * 2

    def postprocess(self, outputs):
        return [{"double": double} for double in outputs.tolist()]
"""
OWN_INITIALIZE = """
    def initialize(self, context):
        self.marks = ["before"]
        super().initialize(context)
        self.marks.append("after")
"""
OWN_HANDLE = """
    def handle(self, data, context):
        bodies = super().handle(data, context)
        context.set_response_header(0, "x-mine", "yes")
        return bodies
"""
STOCK = """
class Stock:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        return [self.version.encode() for _ in data]
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Worker]]:
    """Starts a worker of an archive whose author's module has this source."""

    def started(source: str) -> Worker:
        folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, serving={"handler": "own_handler"})
        (folder / "own_handler.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        return Worker(None, folder)

    yield started
    sys.modules.pop("own_handler", None)


def test_torchserve_finds_one_class_in_the_module_that_manifests_name() -> None:
    assert entry.__name__ == ENTRY
    assert list_classes_from_module(entry) == [entry.Entry]


def test_the_authors_class_answers(start: Callable[[str], Worker]) -> None:
    worker = start(HANDLER)
    assert worker.ask_one(b'{"number": 3}').json() == {"double": 6.0}
    assert worker.entry.worker.describe()["handler"] == "Doubler"


def test_an_initialize_of_the_authors_own_may_call_the_adapters(start: Callable[[str], Worker]) -> None:
    worker = start(HANDLER + OWN_INITIALIZE)
    assert vars(worker.entry.worker.handler)["marks"] == ["before", "loaded", "after"]
    assert worker.ask_one(b'{"number": 3}').json() == {"double": 6.0}


def test_a_handle_of_the_authors_own_may_call_the_adapters(start: Callable[[str], Worker]) -> None:
    [reply] = start(HANDLER + OWN_HANDLE).ask(Item(b'{"number": 3}'))
    assert (reply.json(), reply.headers["x-mine"]) == ({"double": 6.0}, "yes")


def test_a_class_of_torchserves_own_kind_is_called_as_it_is(start: Callable[[str], Worker]) -> None:
    [reply] = start(STOCK).ask(Item(b'{"number": 3}'))
    assert (reply.status, reply.body) == (200, b"1.0")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import no_such_module",
            "own_handler cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("x = 1", "own_handler defines 0 classes; expected exactly one"),
        ("class A: pass\nclass B: pass", "own_handler defines 2 classes; expected exactly one"),
        (HANDLER + "    def __init__(self):\n        raise OSError('no licence')\n", "OSError: no licence"),
    ],
)
def test_a_module_that_gives_no_handler_refuses_to_load_with_a_report(
    start: Callable[[str], Worker], source: str, reason: str, said: Callable[[], list[dict[str, Any]]]
) -> None:
    with pytest.raises(LoadError, match=r"toy 1\.0 must not serve"):
        start(source)
    [report] = said()
    assert report["outcome"] == "refused"
    assert reason in report["reason"]


def test_an_archive_that_names_no_handler_refuses_to_load(tmp_path: Path) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN)
    assert "handler" not in yaml.safe_load((folder / CONFIG).read_text())["serving"]
    with pytest.raises(LoadError, match="cannot be imported"):
        Worker(None, folder)


def test_an_item_of_another_type_than_bytes_is_read_or_fails_alone() -> None:
    def read(body: Any) -> Any:
        return entry.read_request(SimpleNamespace(request_id="1", headers={}, fields={"body": body}, types={}))  # type: ignore[arg-type]

    assert [read(body).body for body in (b"{}", bytearray(b"{}"), memoryview(b"{}"), "{}")] == [b"{}"] * 4
    assert read({}).error.status == 500


def test_torchserves_choices_reach_the_worker(tmp_path: Path) -> None:
    folder = write_archive_folder(tmp_path / "toy", SAMPLES, GOLDEN, serving={"handler": "own_handler"})
    context = SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": 3, "batch_size": 7},
        manifest={"model": {"modelName": "toy", "modelVersion": "1.0"}},
        model_yaml_config=yaml.safe_load((folder / CONFIG).read_text()),
        model_name="renamed",
    )
    config = worker_config(context)
    assert (config.model, config.version, config.gpu_id, config.batch_size) == ("renamed", "1.0", 3, 7)
    assert config.answer_bytes == longest_answer()
