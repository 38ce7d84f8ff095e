"""The file of recorded requests, how a request is put, and how answers are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.contract import Tolerance
from tsctl.compare.answers import agreement
from tsctl.compare.contender import Endpoint, endpoint_of
from tsctl.compare.load.client import is_whole, status_inside
from tsctl.compare.recorded import (
    MOST_REQUESTS,
    Capture,
    RecordedRequest,
    RequestFile,
    read_file,
    read_requests,
    read_requests_to,
)
from tsctl.compare.run import reason, require_answered, rotated
from tsctl.errors import NodeError, SpecError
from tsctl.nodes.observed import Reply
from tsctl.shadow.comparators import Json
from tsctl.shadow.disagreement import Repeat
from tsctl.shadow.summaries import CompareOptions, SummaryComparator


def write(folder: Path, *lines: str) -> Path:
    path = folder / "traffic.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_requests_are_read_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"body": {"text": "grün", "n": [1, 2]}}',
        "",
        '{"body": "as it is", "media_type": "text/plain", "headers": {"x-user": "ann"}}',
        '{"body_base64": "iVBORw==", "media_type": "image/png"}',
        '{"body": null}',
    )
    assert read_requests(path) == [
        RecordedRequest("line 1", '{"text":"grün","n":[1,2]}'.encode(), "application/json"),
        RecordedRequest("line 3", b"as it is", "text/plain", {"x-user": "ann"}),
        RecordedRequest("line 4", b"\x89PNG", "image/png"),
        RecordedRequest("line 5", b"null", "application/json"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("{}", "give either body or body_base64"),
        ('{"body": 1, "body_base64": "AA=="}', "give either body or body_base64"),
        ('{"body_base64": "?"}', "body_base64: "),
        ('{"body_base64": "A"}', "body_base64: "),
        ('{"body": 1, "media": "x"}', "media: "),
        ('{"body": 1, "headers": {"Content-Length": "1"}}', "must not hold Content-Length"),
        ('{"body": 1, "headers": {"a b": "1"}}', "headers.a b"),
        ('{"body": 1, "headers": {"x": "1\\r\\nhost: evil"}}', "must be printable ASCII"),
        ('{"body": 1, "media_type": "a\\nb"}', "media_type: must be printable ASCII"),
        ('{"body": 1, "media_type": ""}', "media_type: "),
        ('{"body": 1, "headers": {"X-User": "a", "x-user": "b"}}', "must not hold x-user twice"),
        ('{"body": {"x": NaN}}', "line 2: no JSON: NaN is not a finite number"),
        ('{"body": [1, -Infinity]}', "line 2: no JSON: -Infinity is not a finite number"),
        ('{"body": {"x": 1e999}}', "line 2: no JSON: 1e999 is not a finite number"),
        ('{"body": {"x": 1, "x": 2}}', "line 2: no JSON: the key 'x' is a duplicate"),
        ('{"body": "\\ud800"}', "line 2: no JSON: it holds half of a character"),
        ("7", "line 2: should be a mapping of keys to values"),
        ("[1]", "line 2: should be a mapping of keys to values"),
        ('{"body": 1,', "line 2: no JSON: expecting property name enclosed in double quotes at column 12"),
    ],
)
def test_a_line_that_is_no_request_is_named(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"traffic\.jsonl, line 2: ") as raised:
        read_requests(write(tmp_path, '{"body": 1}', line))
    assert reason in raised.value.message
    assert "A line is for example" in raised.value.hint


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "of-an-editor.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"body": 1}\n')
    assert [request.body for request in read_requests(path)] == [b"1"]


@pytest.mark.parametrize("content", ["x" * 2000, "\n" * 2000, '{"body": 1, "headers": {"a": "b"}}\n' * 50])
def test_no_more_is_read_than_memory_is_meant_for(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsctl.compare.recorded.MOST_BYTES", 1000)
    path = tmp_path / "large"
    path.write_text(content)
    with pytest.raises(SpecError, match="has more than 100,000 requests or 0 MiB"):
        read_requests(path)


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no request"):
        read_requests(write(tmp_path, "", " "))
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        read_requests(tmp_path / "none.jsonl")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read_requests(tmp_path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="no UTF-8 text"):
        read_requests(binary)
    with pytest.raises(SpecError, match="more than 100,000 requests"):
        read_requests(write(tmp_path, *['{"body": 1}'] * (MOST_REQUESTS + 1)))


def test_a_request_is_put_for_its_engine() -> None:
    request = RecordedRequest("a", b"{}", "application/json", {"x-user": "ann"})
    plain = endpoint_of("http://127.0.0.1:8080/predictions/digits/1.0", {"authorization": "Bearer t"})
    assert plain.message(request) == (
        b"POST /predictions/digits/1.0 HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
        b"x-user: ann\r\nauthorization: Bearer t\r\ncontent-length: 2\r\n\r\n{}"
    )
    named = replace(request, headers={"X-User": "ann", "Authorization": "Bearer CLIENT", "Content-type": "a/b"})
    assert plain.message(named) == (
        b"POST /predictions/digits/1.0 HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nContent-type: a/b\r\n"
        b"X-User: ann\r\nauthorization: Bearer t\r\ncontent-length: 2\r\n\r\n{}"
    ), "each name once, and the node's own value"
    wrapped = Endpoint("::1", 80, "/v2", wrap=lambda sent: (b"<" + sent.body + b">", {"content-type": "binary"}))
    assert wrapped.message(request) == (
        b"POST /v2 HTTP/1.1\r\nhost: [::1]:80\r\ncontent-type: binary\r\nx-user: ann\r\ncontent-length: 4\r\n\r\n<{}>"
    )


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", False),
        (b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_an_answer_ends_by_its_length_or_its_last_chunk(answer: bytes, whole: bool) -> None:
    end = answer.find(b"\r\n\r\n")
    assert is_whole(answer[:end].lower(), answer, end + 4) is whole


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        (b"200\ncontent-type: application/json\n\n{}", (200, False)),
        (b"503\ncontent-type: application/problem+json\nRetry-After: 1\n\n{}", (503, True)),
    ],
)
def test_the_models_own_status_is_read_from_tritons_envelope(inner: bytes, found: tuple[int, bool]) -> None:
    head = b"http/1.1 200 ok\r\ninference-header-content-length: 5\r\ncontent-length: 99"
    assert status_inside(head, b"{1:2}" + inner) == found
    assert status_inside(b"http/1.1 200 ok\r\nx: y\r\ninference-header-content-length: 5", b"{1:2}" + inner) == found
    assert status_inside(b"http/1.1 200 ok", inner) == (200, False)


def ok(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())


def first_difference(
    names: Sequence[str], expected: Sequence[Reply], replies: Sequence[Reply], within: Tolerance
) -> str:
    return agreement(names, expected, replies, replies, replies, Json(within)).first


@pytest.mark.parametrize(
    ("have", "reason"),
    [
        (ok({"label": "7", "p": 0.5004}), ""),
        (ok({"label": "7", "p": 0.502}), "b: p: expected 0.5, got 0.502"),
        (ok({"label": "8", "p": 0.5}), "b: label: expected '7', got '8'"),
        (Reply(200, b"no"), "b: no JSON: no"),
        (Reply(503, b"busy"), "b: status 503 in place of 200 (busy)"),
    ],
)
def test_answers_are_compared_with_tolerance(have: Reply, reason: str) -> None:
    expected = [ok(1), ok({"label": "7", "p": 0.5})]
    assert first_difference(["a", "b"], expected, [ok(1), have], Tolerance(absolute=0.001)) == reason


def test_an_engine_is_compared_as_a_shadow_is_with_its_own_noise_beside() -> None:
    names, comparator = ["a", "b", "c"], SummaryComparator(CompareOptions("label"), Tolerance()).of_values()
    expected = [ok({"label": "7", "p": 0.5}), ok({"label": "8", "p": 0.5}), ok({"label": "9", "p": 0.5})]
    replies = [ok({"label": "7", "p": 0.9}), ok({"label": "1", "p": 0.5}), ok({"label": "9", "p": 0.5})]
    again = [replies[0], ok({"label": "8", "p": 0.5}), replies[2]]
    together = [ok({"label": "0"}), again[1], ok({"label": "0"})]
    found = agreement(names, expected, replies, again, together, comparator)
    assert (found.evidence.pairs, found.evidence.differing) == (3, 1)
    assert found.evidence.repeats_differing == {Repeat.ALONE: 1, Repeat.BATCH: 3}
    assert found.difference == (
        "b: expected '8', got '1' (1 of 3 answers differ; of the engine's own answers to the same requests,"
        " 1 one after the other, and 3 at the same time)"
    )
    everything = SummaryComparator().of_values()
    assert agreement(names, expected, replies, again, again, everything).evidence.differing == 2
    assert not agreement(names, expected, expected, again, again, comparator).difference
    text = [ok({"text": "x"})]
    wrong = agreement(["a"], text, text, text, text, comparator)
    assert "name its field" in wrong.difference


def test_answers_that_are_no_json_are_compared_as_bytes() -> None:
    picture, problem = Reply(200, b"\x89PNG"), Reply(422, b"id 1")
    assert not first_difference(["a", "b"], [picture, problem], [picture, Reply(422, b"id 2")], Tolerance())
    assert first_difference(["a"], [picture], [Reply(200, b"\x89GIF")], Tolerance()) == "a: other bytes"


def test_a_request_that_the_model_refuses_is_no_traffic() -> None:
    requests = [RecordedRequest("line 1", b"", "a/b"), RecordedRequest("line 2", b"", "a/b")]
    require_answered(requests, [ok(1), ok(2)])
    with pytest.raises(SpecError, match="line 2: the model itself answers with 422: wrong"):
        require_answered(requests, [ok(1), Reply(422, b"wrong")])


def test_the_reason_of_a_failure_has_the_next_step() -> None:
    assert reason(NodeError("bentoml is not installed", "Run: tsctl engines install bentoml")) == (
        "bentoml is not installed. Run: tsctl engines install bentoml"
    )
    assert reason(NodeError("it ended\nwith status 1.")) == "it ended with status 1"


def test_each_round_begins_with_another_engine() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name
            self.unavailable = ""

        def start(self) -> Endpoint:
            raise NotImplementedError

        def pids(self) -> list[int]:
            return []

        def stop(self) -> None:
            raise NotImplementedError

    engines = [Named(name) for name in "abc"]
    orders = ["".join(each.name for each in rotated(engines, number)) for number in range(4)]
    assert orders == ["abc", "bca", "cab", "abc"]
    assert rotated([], 1) == []


# ---- captures --------------------------------------------------------------------------------------------------------

FIRST = {"tsctl_capture": 1, "model": "toy", "begin": "2026-01-01T00:00:00Z", "seconds": 600, "requests": 2}
SECOND = '{"at_s": 0.5, "request_id": "a", "body": {"x": 1}}'
THIRD = '{"at_s": 1, "request_id": "a", "row": 3, "media_type": "image/png", "body_base64": "iVBORw=="}'


def capture(folder: Path, *lines: str, **first: object) -> Path:
    path = folder / "capture.jsonl"
    path.write_text("".join(f"{line}\n" for line in (json.dumps({**FIRST, **first}), *lines)))
    return path


def test_a_capture_has_ids_and_times_and_its_model(tmp_path: Path) -> None:
    path = capture(tmp_path, SECOND, "", THIRD, recorded={"1.0": 0.01})
    assert read_file(path) == RequestFile(
        [
            RecordedRequest("a", b'{"x":1}', "application/json", {}, 0.5),
            RecordedRequest("a row 3", b"\x89PNG", "image/png", {}, 1.0),
        ],
        Capture("toy", "2026-01-01T00:00:00Z", 600.0, 2, {"1.0": 0.01}),
    )
    assert read_requests_to(path, "toy") == read_requests(path)
    with pytest.raises(SpecError, match="has requests to toy, not to digits"):
        read_requests_to(path, "digits")
    assert len(read_requests_to(write(tmp_path, '{"body": 1}'), "digits")) == 1, "one that names no model is for any"


@pytest.mark.parametrize("cut", [1, 2, 10, len(THIRD), len(THIRD) + 1])
def test_a_capture_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = capture(tmp_path, SECOND, THIRD)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(SpecError, match="has 1 requests, and its first line says 2: it was cut or changed"):
        read_file(path)


@pytest.mark.parametrize(
    ("first", "lines", "message"),
    [
        ({"tsctl_capture": 2}, (SECOND, THIRD), "capture of format 2; this tsctl reads format 1"),
        ({"tsctl_capture": "x" * 99}, (SECOND, THIRD), "capture of format 'xxx"),
        ({"requests": 0}, (), "holds no request"),
        ({"requests": 1}, (SECOND, THIRD), "has 2 requests, and its first line says 1"),
        ({"requests": -1}, (), "line 1: requests: "),
        ({"model": ""}, (SECOND, THIRD), "line 1: model: "),
        ({"keys": []}, (SECOND, THIRD), "line 1: keys: "),
        ({}, (SECOND, '{"at_s": -1, "body": {}}'), "line 3: at_s: "),
        ({}, (SECOND, '{"at_s": NaN, "body": {}}'), "line 3: no JSON: NaN is not a finite number"),
        ({}, (SECOND, '{"at_s": 1e9, "body": {}}'), "line 3: at_s: "),
        ({}, (SECOND, json.dumps({"request_id": "x" * 129, "body": {}})), "line 3: request_id: "),
        ({}, (SECOND, json.dumps(FIRST)), "line 3: "),
    ],
)
def test_a_wrong_capture_is_refused_with_its_place(
    tmp_path: Path, first: dict[str, object], lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read_file(capture(tmp_path, *lines, **first))
    assert caught.value.hint
