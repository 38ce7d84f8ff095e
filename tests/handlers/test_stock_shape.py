"""What is read from the source of a stock handler, before anything of it is converted."""

from __future__ import annotations

import pytest

from tests.support.stock import FUNCTION, PICTURES, STOCK_HANDLER, STREAM, TEXTS
from tsctl.archive.convert import next_version
from tsctl.archive.stock_shape import shape_of

BASE = "from ts.torch_handler.base_handler import BaseHandler\n\n\nclass Mine(BaseHandler):\n"
MODULE = "import ts.torch_handler.vision_handler as vision\n\n\nclass Mine(vision.VisionHandler):\n"


@pytest.mark.parametrize(("source", "name"), [
    (PICTURES, "Pictures"),
    (TEXTS, "Texts"),
    (f"{BASE}    pass\n", "Mine"),
    (f"{MODULE}    pass\n", "Mine"),
    (f"{BASE}    def preprocess(self, data):\n        return self.context.manifest\n", "Mine"),
    (f"{BASE}    def initialize(self, context):\n        self.x = context.get_request_header(0, 'x')\n", "Mine"),
])  # fmt: skip
def test_a_class_of_torchserves_steps_can_be_wrapped(source: str, name: str) -> None:
    shape = shape_of("mine.py", source, {}, {})
    assert (shape.module, shape.name, shape.findings) == ("mine", name, ())


@pytest.mark.parametrize(("source", "reason", "line"), [
    (FUNCTION, "function style: handle(data, context)", 8),
    (STREAM, "it answers in parts (send_intermediate_predict_response)", 13),
    (STOCK_HANDLER, "Stock does not derive from TorchServe's BaseHandler", 2),
    (f"{BASE}    def handle(self, data, context):\n        return []\n", "Mine overrides handle", 5),
    (f"{BASE}    async def handle(self, data, context):\n        return []\n", "Mine overrides handle", 5),
    (
        f"{BASE}    def postprocess(self, data):\n        self.context.set_response_status(409, 'no', 0)\n",
        "postprocess uses the context of the request (context.set_response_status)", 6,
    ),
    ("class A:\n    pass\n\n\nclass B:\n    pass\n", "it defines 2 classes", None),
    ("def of(:\n", "is not Python", None),
    (None, "its handler mine.py is not in the archive", None),
])  # fmt: skip
def test_what_cannot_be_wrapped_is_named_with_its_line(source: str | None, reason: str, line: int | None) -> None:
    blockers = shape_of("mine.py", source, {}, {}).blockers
    [found] = [each for each in blockers if reason in each.text]
    assert found.line == line
    assert str(found).startswith(f"line {line}: " if line else found.text)


@pytest.mark.parametrize(("config", "reason"), [
    ({"continuousBatching": True}, "continuousBatching"),
    ({"asyncCommunication": True}, "asyncCommunication"),
    ({"sequenceMaxIdleMSec": 100}, "sequence batching"),
    ({"parallelType": "tp"}, "parallelType"),
])  # fmt: skip
def test_ways_of_calling_it_that_no_wrapper_has_are_named(config: dict[str, object], reason: str) -> None:
    [blocker] = shape_of("mine.py", PICTURES, {}, config).blockers
    assert reason in blocker.text


def test_what_is_left_out_is_listed_and_stops_nothing() -> None:
    source = f"{BASE}    def get_insights(self, *args):\n        pass\n\n    def describe_handle(self):\n        pass\n"
    model, config = {"requirementsFile": "requirements.txt"}, {"micro_batching": {"micro_batch_size": 4}}
    shape = shape_of("mine.py", source, model, config)
    assert shape.blockers == []
    texts = " ".join(map(str, shape.findings))
    for part in ("micro_batching", "requirements.txt", "explanations (get_insights)", "describe_handle"):
        assert part in texts


def test_handlers_that_torchserve_brings_are_imported_from_it() -> None:
    shape = shape_of("image_classifier", None, {}, {})
    assert (shape.module, shape.name, shape.blockers) == ("ts.torch_handler.image_classifier", "ImageClassifier", [])


@pytest.mark.parametrize(("version", "after"), [("1.0", "2.0"), ("9", "10"), ("2.1.3", "3.1.3"), ("v1", "v1.1")])
def test_the_next_version(version: str, after: str) -> None:
    assert next_version(version) == after
