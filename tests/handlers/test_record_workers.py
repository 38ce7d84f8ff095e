"""Records behind TorchServe's service: which answers of a worker are recorded, and what of them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic_core import to_json

from handlers.base import ServingHandler
from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CHECK_ANSWER,
    CHECK_HEADER,
    CHECK_HEALTH,
    CLIENT_HEADER,
    COPIED_HEADER,
    OPEN_INFERENCE,
    PROTOCOL_HEADER,
    RECORDS_FOLDER_VARIABLE,
    RECORDS_MB_VARIABLE,
    REPEAT_ALONE,
    REPEAT_BATCH,
    REQUEST_ID_HEADER,
    SHADOW_HEADER,
)
from handlers.errors import DoesNotFit
from handlers.image import _pixels_request
from handlers.record_files import CLOSED_SEGMENT, INPUTS, RECORDS, REPEATS, record_files
from handlers.records.sampling import sampler
from handlers.schema import Schema
from tests.support.workers import Item, Worker, write_archive_folder

WHOLE = {"share": 1.0, "days": 30, "input_days": None}


class SumHandler(ServingHandler):
    """The sum of two numbers, with its sign as a class."""

    class Request(Schema):
        """Two numbers, and a text."""

        first: float
        second: float
        note: str = ""

    def load(self) -> None:
        pass

    def preprocess(self, items: list[Any]) -> list[float]:
        return [item.first + item.second for item in items]

    def inference(self, inputs: list[float]) -> list[float]:
        if 13 in inputs:
            raise RuntimeError("unlucky")
        return inputs

    def postprocess(self, outputs: list[float]) -> list[Any]:
        return [DoesNotFit("too much", []) if total > 100 else {"sum": total} for total in outputs]

    def classify(self, answer: dict[str, float]) -> str:
        return "negative" if answer["sum"] < 0 else "positive"

    def redact(self, item: Any) -> dict[str, float]:
        return {"first": item.first, "second": item.second}


class Site:
    """An archive's worker that records into a folder of its own."""

    def __init__(self, tmp_path: Path, **serving: Any) -> None:
        self.records = tmp_path / "records"
        samples = {"one.json": b'{"first": 1, "second": 2}'}
        content = {"records": WHOLE, **serving}
        folder = write_archive_folder(tmp_path / "toy", samples, {"one.json": {"sum": 3.0}}, serving=content)
        (folder / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
        self.worker = Worker(SumHandler(), folder)

    def lines(self, kind: str = RECORDS) -> list[dict[str, Any]]:
        self.worker.entry.worker.pipeline.close()
        return read(self.records, kind)


def read(folder: Path, kind: str = RECORDS) -> list[dict[str, Any]]:
    files = [file for file in record_files(folder) if file.kind == kind] if folder.exists() else []
    assert all(file.end == CLOSED_SEGMENT for file in files)
    return [json.loads(line) for file in files for line in (folder / file.name).read_bytes().splitlines()]


def item(first: float, name: str, headers: dict[str, str] | None = None) -> Item:
    body = json.dumps({"first": first, "second": 0.0, "note": "Ada"}).encode()
    return Item(body, headers={REQUEST_ID_HEADER: name, **(headers or {})})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    monkeypatch.setenv(RECORDS_FOLDER_VARIABLE, str(tmp_path / "records"))
    monkeypatch.setenv(RECORDS_MB_VARIABLE, "64")
    return lambda **serving: Site(tmp_path, **serving)


def test_each_item_of_a_batch_has_a_record_with_its_own_outcome(site: Callable[..., Site]) -> None:
    here = site()
    headers = {CLIENT_HEADER: "shop", ASSIGNED_TRACK_HEADER: "canary"}
    here.worker.ask(item(-5, "a", headers), Item(b"{}"), item(13, "c"), item(500, "d"), Item(b"no JSON"))
    lines = here.lines()
    assert [line["request_id"] for line in lines] == ["a", "request-1", "c", "d", "request-4"]
    assert [line["status"] for line in lines] == [200, 422, 500, 422, 400]
    assert [line.get("error") for line in lines] == [
        None, "does-not-fit-schema", "model-failed", "does-not-fit-schema", "undecodable-body",
    ]  # fmt: skip
    assert [line.get("numbers") for line in lines] == [
        {"first": -5.0, "second": 0.0, "note.length": 3.0}, None,
        {"first": 13.0, "second": 0.0, "note.length": 3.0}, {"first": 500.0, "second": 0.0, "note.length": 3.0}, None,
    ]  # fmt: skip
    first = lines[0]
    assert (first["label"], first["score"], first["client"], first["track"]) == ("negative", -5.0, "shop", "canary")
    assert {line["batch_items"] for line in lines} == {5}
    assert 0 < first["inference_ms"] <= first["batch_ms"]


def test_samples_warm_up_and_checks_have_no_record(site: Callable[..., Site]) -> None:
    here = site()
    here.worker.ask(item(1, "a"), item(1, "b", {CHECK_HEADER: CHECK_HEALTH}))
    here.worker.ask(item(1, "c", {CHECK_HEADER: CHECK_ANSWER}))
    assert [line["request_id"] for line in here.lines()] == ["a"]


def test_answers_of_the_cache_are_recorded_as_hits_with_the_same_prediction(site: Callable[..., Site]) -> None:
    here = site(cache={"max_mb": 1.0, "ttl_s": 60.0, "check": 0.0})
    here.worker.ask(item(1, "a"), item(1, "b"))
    here.worker.ask(item(1, "c"))
    here.worker.ask(item(1, "d", {"cache-control": "no-store"}))
    lines = here.lines()
    assert [line["cache"] for line in lines] == ["miss", "hit", "hit", "bypass"]
    same = ("label", "score", "outputs", "input_digest", "answer_digest", "numbers")
    assert len({json.dumps([line[name] for name in same]) for line in lines}) == 1


def test_rows_of_an_infer_request_are_numbered(site: Callable[..., Site]) -> None:
    here = site()
    columns = [("first", "FP64", [1.0, 2.0, 3.0]), ("second", "FP64", [0.0, 0.0, 0.0]), ("note", "BYTES", ["", "", ""])]
    inputs = [{"name": name, "shape": [3], "datatype": kind, "data": data} for name, kind, data in columns]
    body = json.dumps({"inputs": inputs}).encode()
    here.worker.ask(Item(body, headers={PROTOCOL_HEADER: OPEN_INFERENCE, REQUEST_ID_HEADER: "a"}))
    assert [(line["request_id"], line["row"], line["score"]) for line in here.lines()] == [
        ("a", 0, 1.0), ("a", 1, 2.0), ("a", 2, 3.0),
    ]  # fmt: skip


def test_a_share_of_the_ids_is_recorded_and_the_same_ones_by_every_version(
    site: Callable[..., Site], tmp_path: Path
) -> None:
    here = site(records={**WHOLE, "share": 0.25})
    names = [f"id-{number}" for number in range(40)]
    for name in names:
        here.worker.ask(item(1, name))
    assert [line["request_id"] for line in here.lines()] == list(filter(sampler(0.25), names))


def test_inputs_are_kept_as_redact_leaves_them(site: Callable[..., Site]) -> None:
    here = site(records={**WHOLE, "input_days": 7})
    here.worker.ask(item(1, "a"), Item(b"{}"))
    lines = here.lines(INPUTS)
    assert [json.loads(line["input"]) for line in lines] == [{"first": 1.0, "second": 0.0}]
    assert "Ada" not in "".join(path.read_text() for path in here.records.iterdir())


@pytest.fixture
def still(site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    """As `site`, but the recorder's thread leaves the work to the test."""
    monkeypatch.setattr("handlers.records.recorder.FLUSH_S", 3600.0)
    return site


COPIED = {ASSIGNED_TRACK_HEADER: "stable", COPIED_HEADER: "1"}


def again(here: Site) -> list[dict[str, Any]]:
    """The second answers once their turn has come, the first ones written before."""
    recorder = here.worker.entry.worker.pipeline._recorder
    assert recorder is not None and recorder._repeats is not None
    recorder.flush()
    recorder._repeats._since = -math.inf
    recorder.answer_again()
    return here.lines(REPEATS)


def test_stable_answers_copied_items_again_alone_and_in_another_batch(still: Callable[..., Site]) -> None:
    here = still()
    sizes: list[int] = []
    handler = here.worker.handler
    inference = handler.inference

    def counted(inputs: list[float]) -> list[float]:
        sizes.append(len(inputs))
        return list(inference(inputs))

    handler.inference = counted
    for number in range(3):
        here.worker.ask(item(number, f"id-{number}", COPIED), item(50, f"other-{number}"))
    sizes.clear()
    lines = again(here)
    assert sizes == [1, 1, 1, 3]
    assert [(line["request_id"], line["repeat"]) for line in lines] == [
        *((f"id-{number}", REPEAT_ALONE) for number in range(3)),
        *((f"id-{number}", REPEAT_BATCH) for number in range(3)),
    ]
    records = {line["request_id"]: line for line in here.lines()}
    assert [line["request_id"] for line in records.values() if line.get("copied")] == ["id-0", "id-1", "id-2"]
    for line in lines:
        first = records[line["request_id"]]
        assert line["status"] == 200
        assert {name: line[name] for name in ("label", "score", "answer_digest")} == {
            name: first[name] for name in ("label", "score", "answer_digest")
        }


def test_an_item_that_waits_alone_is_answered_beside_the_one_before(still: Callable[..., Site]) -> None:
    here = still()
    here.worker.ask(item(1, "a", COPIED))
    assert again(here) == []  # there is nothing that it could be in a batch with
    here.worker.ask(item(2, "b", COPIED))
    assert {line["request_id"] for line in again(here)} == {"a", "b"}
    here.worker.ask(item(3, "c", COPIED))
    assert [line["repeat"] for line in again(here) if line["request_id"] == "c"] == [REPEAT_ALONE, REPEAT_BATCH]


@pytest.mark.parametrize(
    ("headers", "records"),
    [
        ({}, WHOLE),
        ({ASSIGNED_TRACK_HEADER: "canary", COPIED_HEADER: "1"}, WHOLE),
        ({**COPIED, SHADOW_HEADER: "1"}, WHOLE),
        (COPIED, {**WHOLE, "repeats": 0.0}),
    ],
)
def test_only_stables_answers_to_copied_requests_are_repeated(
    still: Callable[..., Site], headers: dict[str, str], records: dict[str, Any]
) -> None:
    here = still(records=records)
    here.worker.ask(item(1, "a", headers), item(2, "b", headers))
    recorder = here.worker.entry.worker.pipeline._recorder
    assert recorder is not None
    recorder.flush()
    if recorder._repeats is not None:
        recorder._repeats._since = -math.inf
    recorder.answer_again()
    assert here.lines(REPEATS) == []
    assert len(here.lines()) == 2


def test_answers_are_kept_whole_only_where_the_archive_says_so(site: Callable[..., Site]) -> None:
    here = site(records={**WHOLE, "answers": True})
    here.worker.ask(item(1, "a"), item(13, "b"))
    assert [line.get("answer") for line in here.lines()] == ['{"sum":1.0}', None]


def test_no_answer_is_kept_unless_the_archive_asks(site: Callable[..., Site]) -> None:
    here = site()
    here.worker.ask(item(1, "a"))
    assert "answer" not in here.lines()[0]


@pytest.mark.parametrize("records", [None, {**WHOLE, "share": 0.0}])
def test_nothing_is_recorded_unless_the_archive_asks(site: Callable[..., Site], records: Any) -> None:
    here = site(records=records)
    here.worker.ask(item(1, "a"))
    assert here.lines() == []
    assert not here.records.exists()


def test_nothing_is_recorded_where_the_server_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECORDS_FOLDER_VARIABLE, raising=False)
    here = Site(tmp_path)
    here.worker.ask(item(1, "a"))
    assert here.lines() == []


def test_a_disk_that_cannot_be_written_changes_no_answer(
    site: Callable[..., Site], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "records").write_text("a file in the way")
    here = site()
    [reply] = here.worker.ask(item(1, "a"))
    here.worker.entry.worker.pipeline.close()
    assert (reply.status, reply.json()) == (200, {"sum": 1.0})
    assert "serving goes on" in caplog.text


def test_a_picture_has_its_size_and_brightness(digits: Worker) -> None:
    buffer = io.BytesIO()
    Image.new("L", (40, 20), 51).save(buffer, "PNG")
    handler = digits.handler
    assert handler.summarize(("image/png", buffer.getvalue())) == pytest.approx(
        {"form": "PNG", "width": 40.0, "height": 20.0, "brightness": 0.2}
    )
    grey = handler.decode(json.dumps({"pixels": [[8] * 8] * 8}).encode(), "application/json")
    assert handler.summarize(grey) == pytest.approx({"form": "JSON", "width": 8.0, "height": 8.0, "brightness": 0.5})
    assert handler.redact(("image/png", b"x")) == {"media_type": "image/png", "body": b"x"}


@pytest.mark.parametrize("white", [16.0, 255.0, 1.0, 100.0])
def test_the_input_of_pixels_is_a_request_with_the_same_grey_values(digits: Worker, white: float) -> None:
    handler = digits.handler
    steps = [[white * (8 * row + column) / 63 for column in range(8)] for row in range(8)]
    before, handler.value_max, handler.Request = (
        (handler.value_max, handler.Request), white, _pixels_request(8, 8, white),
    )  # fmt: skip
    try:
        grey = handler.decode(json.dumps({"pixels": steps}).encode(), "application/json")
        again = handler.decode(to_json(handler.redact(grey), fallback=lambda array: array.tolist()), "application/json")
    finally:
        handler.value_max, handler.Request = before
    assert np.array_equal(grey, again)
