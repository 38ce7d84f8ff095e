"""Whatever bytes come: one outcome for each item, from a closed set, in JSON, and the neighbours' answers unchanged."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.contract import JPEG, PNG
from tests.support.workers import JSON, Item, Reply, Worker, assert_problem, close

STATUSES = (400, 413, 415, 422)

BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \n",
    "null": b"null",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a number": b"1",
    "a text": b'"pixels"',
    "invalid UTF-8": b'{"text": "\xc3\x28"}',
    "UTF-16": '{"text": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"text": 1}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets, closed": b"[" * 100_000 + b"]" * 100_000,
    "10,000 objects": b'{"text":' * 10_000 + b"1" + b"}" * 10_000,
    "nested in a field": b'{"pixels": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a huge integer": b'{"mean_radius": 1' + b"0" * 10_000 + b"}",
    "a huge float": b'{"pixels": [[1e999]]}',
    "NaN": b'{"pixels": [[NaN]]}',
    "two documents": b"{} {}",
    "cut": b'{"text": "a',
    "a comment": b'{"text": "a"} // yes',
    "single quotes": b"{'text': 'a'}",
    "half a character": rb'{"text": "\ud83d"}',
    "a null character": b'{"text\\u0000": 1}',
    "an unknown key that looks like markup": b'{"<script>": 1}',
    "a PNG signature": b"\x89PNG\r\n\x1a\n",
    "a JPEG signature": b"\xff\xd8\xff\xe0",
    "a pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
    "a GIF": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
}
TYPES = [JSON, PNG, JPEG, "", "application/json; charset=latin-1", "text/plain", "application/octet-stream"]


@pytest.fixture(params=["digits", "breast_cancer", "embeddings"])
def worker(request: pytest.FixtureRequest) -> Worker:
    found: Worker = request.getfixturevalue(request.param)
    return found


def good_item(worker: Worker) -> Item:
    return Item(next(p for p in sorted((worker.folder / "samples").iterdir()) if p.suffix == ".json").read_bytes())


def assert_outcome(reply: Reply) -> None:
    if reply.status == 200:
        assert reply.media_type == JSON
        reply.json()
    else:
        assert_problem(reply, *STATUSES)


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_request(worker: Worker, name: str) -> None:
    """In every media type, in one batch with a good item on either side."""
    good = good_item(worker)
    first, *replies, last = worker.ask(good, *(Item(BODIES[name], media_type) for media_type in TYPES), good)
    for reply in replies:
        assert_problem(reply, *STATUSES)
    [expected] = worker.ask(good)
    assert close(first.json(), expected.json())
    assert close(last.json(), expected.json())


TEXTS = st.one_of(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=4))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.one_of(
    VALUES,
    st.builds(lambda value: {"pixels": value}, VALUES),
    st.builds(lambda value: {"text": value}, TEXTS | VALUES),
    st.builds(lambda row: {"pixels": [row] * 8}, st.lists(st.integers(0, 16) | st.floats(), min_size=7, max_size=9)),
)
ANY_BODY = st.one_of(st.binary(max_size=200), OBJECTS.map(lambda value: json.dumps(value).encode()))
ITEMS = st.builds(Item, body=ANY_BODY, media_type=st.sampled_from(TYPES))
FUZZING = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@FUZZING
@given(items=st.lists(ITEMS, min_size=1, max_size=6), place=st.integers(0, 6))
def test_any_bytes_have_one_outcome_and_change_no_neighbour(worker: Worker, items: list[Item], place: int) -> None:
    good = good_item(worker)
    batch = [*items[:place], good, *items[place:]]
    replies = worker.ask(*batch)
    assert len(replies) == len(batch)
    for reply in replies:
        assert_outcome(reply)
    [expected] = worker.ask(good)
    assert close(replies[min(place, len(items))].json(), expected.json())


@FUZZING
@given(
    name=st.sampled_from([("digit-2.png", PNG), ("digit-4.jpg", JPEG)]),
    changes=st.lists(st.tuples(st.integers(0, 450), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_picture_with_changed_bytes_is_answered(
    digits: Worker, name: tuple[str, str], changes: list[tuple[int, int]]
) -> None:
    body = bytearray((digits.folder / "samples" / name[0]).read_bytes())
    for place, value in changes:
        body[place % len(body)] = value
    assert_outcome(digits.ask_one(bytes(body), name[1]))


@FUZZING
@given(
    names=st.lists(st.text(max_size=8), max_size=3, unique=True),
    types=st.lists(st.sampled_from(TYPES), min_size=3, max_size=3),
    bodies=st.lists(ANY_BODY, min_size=3, max_size=3),
    headers=st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4),
)
def test_any_form_and_any_headers_have_one_outcome(
    breast_cancer: Worker, names: list[str], types: list[str], bodies: list[bytes], headers: dict[str, str]
) -> None:
    form = tuple(zip(names, types, bodies, strict=False))
    good = good_item(breast_cancer)
    reply, neighbour = breast_cancer.ask(Item(media_type="multipart/form-data", headers=headers, form=form), good)
    assert_outcome(reply)
    assert neighbour.status == 200
