"""A capture holds the recorded inputs of real requests with their times, and nothing else of them; a sample if many."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from handlers.record_files import INPUTS, RECORDS
from tests.unit.test_records_read import NOW, Folder
from tsctl.capture.take import Period, Taken, take
from tsctl.cli.capture import capture
from tsctl.compare.recorded import MOST_REQUESTS, read_file
from tsctl.errors import AnalysisError, SpecError, TsctlError

LAST = Period.last(10, datetime.fromtimestamp(NOW + 1, UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "records")


def put(
    folder: Folder, *ids: str, arrived_s: float = 0.0, recorded: dict[str, Any] | None = None, **given: Any
) -> None:
    """Records and inputs of requests that came so long after NOW, and took 2 ms in their batch."""
    both = {"time_us": round((NOW + arrived_s + 0.002) * 1e6), **{k: v for k, v in given.items() if k == "row"}}
    folder.segment(*ids, **both, batch_ms=2.0, **(recorded or {}))
    folder.segment(*ids, kind=INPUTS, **{**both, "input": '{"x":1}', **given})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_capture_is_the_inputs_in_the_order_of_their_arrival(folder: Folder, tmp_path: Path) -> None:
    put(folder, "late", arrived_s=0.5)
    put(folder, "early", arrived_s=0.1)
    put(folder, "rows", arrived_s=0.3, row=1)
    put(folder, "rows", arrived_s=0.3)
    path = tmp_path / "own" / "c.jsonl"
    taken = take(folder.places, "toy", LAST, path, {"1.0": 0.25, "3.0": 1.0})
    assert taken == Taken(4, 4, path.stat().st_size, {"1.0": 4})
    first = json.loads(path.read_text().partition("\n")[0])
    assert first == {
        "tsctl_capture": 1, "model": "toy", "begin": "2025-11-26T09:30:01.000Z", "seconds": 600.0, "requests": 4,
        "recorded": {"1.0": 0.25},
    }  # fmt: skip
    assert lines(path) == [
        {"at_s": 599.1, "request_id": "early", "body": {"x": 1}},
        {"at_s": 599.3, "request_id": "rows", "body": {"x": 1}},
        {"at_s": 599.3, "request_id": "rows", "row": 1, "body": {"x": 1}},
        {"at_s": 599.5, "request_id": "late", "body": {"x": 1}},
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_request_came_when_the_gateway_sent_it(folder: Folder, tmp_path: Path) -> None:
    put(folder, "a", arrived_s=0.5, recorded={"wait_ms": 100.0})
    path = tmp_path / "c.jsonl"
    take(folder.places, "toy", LAST, path, {})
    assert [line["at_s"] for line in lines(path)] == [599.4]


def test_what_no_client_was_answered_and_who_it_was_is_not_in_it(folder: Folder, tmp_path: Path) -> None:
    put(folder, "real", client="shop-of-ada")
    put(folder, "copy", recorded={"track": "shadow"})
    put(folder, "of-another", model="other")
    put(folder, "before", arrived_s=-700)
    path = tmp_path / "c.jsonl"
    take(folder.places, "toy", LAST, path, {})
    assert [line["request_id"] for line in lines(path)] == ["real"]
    assert "ada" not in path.read_text()


def test_one_id_that_comes_twice_is_two_requests(folder: Folder, tmp_path: Path) -> None:
    put(folder, "a", arrived_s=0.1)
    put(folder, "a", arrived_s=0.2)
    put(folder, "a", "a", arrived_s=0.3)  # both in one batch
    assert take(folder.places, "toy", LAST, tmp_path / "c.jsonl", {}).requests == 4


@pytest.mark.parametrize(
    ("media_type", "text", "body"),
    [
        (None, '{"x":1.25,"name":"grün"}', '{"x":1.25,"name":"grün"}'.encode()),
        ("application/json", "[1,2]", b"[1,2]"),
        (None, '"a text"', b'"a text"'),
        (None, '{"x":NaN}', b'{"x":NaN}'),
        ("image/png", "iVBORw==", b"\x89PNG"),
        (None, "null", b"null"),
    ],
)
def test_a_body_is_read_back_as_it_was_recorded(
    folder: Folder, tmp_path: Path, media_type: str | None, text: str, body: bytes
) -> None:
    put(folder, "a\tb", media_type=media_type, input=text)
    path = tmp_path / "c.jsonl"
    take(folder.places, "toy", LAST, path, {})
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    [request] = read_file(path).requests
    assert (request.name, request.body, request.media_type) == ("a\tb", body, media_type or "application/json")


def test_of_more_requests_than_fit_a_sample_is_taken_that_does_not_depend_on_their_order(
    folder: Folder, tmp_path: Path
) -> None:
    names = [f"id-{number}" for number in range(60)]
    put(folder, *names)
    put(folder, *names, row=1)
    paths = [tmp_path / "some.jsonl", tmp_path / "fewer.jsonl", tmp_path / "short.jsonl"]
    assert take(folder.places, "toy", LAST, paths[0], {}, most=40) == Taken(
        40, 120, paths[0].stat().st_size, {"1.0": 40}
    )
    take(folder.places, "toy", LAST, paths[1], {}, most=21)
    some, fewer = ([(line["request_id"], line.get("row", 0)) for line in lines(path)] for path in paths[:2])
    assert len(fewer) == 20, "all rows of a request, or none"
    assert set(fewer) < set(some)
    assert {name for name, _ in some} != set(names[:20])
    assert take(folder.places, "toy", LAST, paths[2], {}, most_bytes=7 * 30).requests == 30


@pytest.mark.parametrize(
    ("fill", "kind", "message"),
    [
        (lambda folder: None, AnalysisError, "no request to toy was ever recorded here"),
        (lambda folder: put(folder, "a", arrived_s=-3600), AnalysisError, "no request to toy was recorded in"),
        (lambda folder: folder.segment("a", "b"), SpecError, "2 requests to toy were recorded in"),
        (lambda folder: put(folder, "copy", recorded={"track": "shadow"}), SpecError, "no input of one"),
        (lambda folder: put(folder, "a", input='"' + 70 * "x" + '"'), AnalysisError, "have more than 64 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_is_refused_with_what_to_do(
    folder: Folder, tmp_path: Path, fill: Callable[[Folder], None], kind: type[TsctlError], message: str
) -> None:
    fill(folder)
    path = tmp_path / "c.jsonl"
    with pytest.raises(kind, match=message) as caught:
        take(folder.places, "toy", LAST, path, {}, most_bytes=64)
    assert caught.value.hint
    assert not path.exists()


def test_without_recorded_inputs_the_hint_says_what_to_write(folder: Folder, tmp_path: Path) -> None:
    folder.segment("a", kind=RECORDS)
    with pytest.raises(SpecError) as caught:
        take(folder.places, "toy", LAST, tmp_path / "c.jsonl", {})
    assert "'records: {share: 0.01, input_days: 7}' into archives/toy/archive.yaml" in caught.value.hint


def test_a_capture_that_could_not_be_read_is_not_written(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "a", input='"' + '\\"' * 100 + '"')
    monkeypatch.setattr("tsctl.capture.take.MOST_BYTES", 400)
    with pytest.raises(AnalysisError, match="the file would have more than"):
        take(folder.places, "toy", LAST, tmp_path / "c.jsonl", {})
    assert not (tmp_path / "c.jsonl").exists()


def test_no_option_asks_for_more_requests_than_can_be_read() -> None:
    [option] = get_type_hints(capture, include_extras=True)["most"].__metadata__
    assert option.max <= MOST_REQUESTS
