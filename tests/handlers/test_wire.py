"""The bulk decoder and encoder against TorchServe's own: equal requests out of equal bytes, and equal bytes out."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler as stock

from handlers.adapters.torchserve import wire
from handlers.adapters.torchserve.context import encode
from handlers.adapters.torchserve.wire import Disconnected, Reader
from tests.support.messages import Connection, decoded, message, stock_decoded

TEXT = st.text(max_size=12)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
BODY = st.one_of(st.binary(max_size=60), st.integers(0, 70_000).map(bytes))
REQUESTS = st.lists(
    st.tuples(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=6), st.lists(st.tuples(TEXT, ASCII, BODY), max_size=3)),
    max_size=5,
)
FAST = settings(max_examples=150, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def raw_bodies() -> Iterator[None]:
    """As in a worker whose handler has switched to raw bodies."""
    before = os.environ.get("TS_DECODE_INPUT_REQUEST")
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
    yield
    os.environ.pop("TS_DECODE_INPUT_REQUEST")
    if before is not None:
        os.environ["TS_DECODE_INPUT_REQUEST"] = before


@FAST
@given(requests=REQUESTS, pieces=st.lists(st.integers(1, 5000), min_size=1, max_size=4))
def test_any_batch_in_any_pieces_is_read_as_torchserve_reads_it(requests: list[Any], pieces: list[int]) -> None:
    content = message(requests)
    reader = Reader(Connection(content, pieces).recv)
    assert reader.take(1) == b"I"
    assert decoded(reader.batch()) == stock_decoded(content)


@FAST
@given(batches=st.lists(REQUESTS, min_size=1, max_size=4), piece=st.integers(1, 1 << 18))
def test_messages_that_come_together_are_told_apart(batches: list[list[Any]], piece: int) -> None:
    reader = Reader(Connection(b"".join(map(message, batches)), [piece]).recv)
    for batch in batches:
        assert reader.take(1) == b"I"
        assert decoded(reader.batch()) == stock_decoded(message(batch))


@FAST
@given(requests=REQUESTS, data=st.data())
def test_a_message_cut_anywhere_is_a_disconnection(requests: list[Any], data: st.DataObject) -> None:
    content = message(requests)
    reader = Reader(Connection(content[: data.draw(st.integers(1, len(content) - 1))], [77]).recv)
    reader.take(1)
    with pytest.raises(Disconnected):
        reader.batch()


@pytest.mark.parametrize("length", [-2, -4, -5, -(2**31)])
@pytest.mark.parametrize("place", range(7))
def test_a_negative_length_anywhere_is_refused(place: int, length: int) -> None:
    """A decoder that took it for a length would go back, and read the same bytes for ever."""
    lengths = [struct.pack("!i", n) for n in (1, 1, 1, -1, 1, 1, 1)]
    lengths[place] = struct.pack("!i", length)
    request_id, name, value, end, field, kind, body = lengths
    content = b"I" + request_id + b"1" + name + b"n" + value + b"v" + end + field + b"f" + kind + b"k" + body + b"b"
    reader = Reader(Connection(content, [1 << 16]).recv)
    reader.take(1)
    with pytest.raises(ValueError, match="a length that no item has"):
        reader.batch()


def test_a_body_of_megabytes_is_read_in_few_calls_and_once() -> None:
    body = os.urandom(1 << 20) * 8
    content = message([("id", [("name", "value")], [("body", "image/png", body)])] * 2)
    connection = Connection(content, [1 << 17])
    reader = Reader(connection.recv)
    reader.take(1)
    assert [item.fields["body"] for item in reader.batch()] == [body, body]
    assert connection.calls <= len(content) // (1 << 17) + 2


def test_a_usual_batch_takes_one_call() -> None:
    headers = [("content-type", "application/json"), ("host", "127.0.0.1"), ("x-request-id", "1")]
    connection = Connection(message([("id", headers, [("body", "application/json", b"{}")])] * 32), [1 << 20])
    reader = Reader(connection.recv)
    reader.take(1)
    assert len(reader.batch()) == 32
    assert connection.calls == 1


ANSWERS = st.lists(
    st.tuples(
        TEXT,
        st.binary(max_size=200),
        st.sampled_from([None, 200, 400, 422, 500]),
        st.one_of(st.none(), TEXT),
        st.dictionaries(st.one_of(TEXT, st.just("content-type")), TEXT, max_size=4),
    ),
    max_size=6,
)


@FAST
@given(answers=ANSWERS)
def test_a_response_without_a_context_has_the_same_bytes(answers: list[Any]) -> None:
    answers = [(*answer[:2], answer[2] or 200, answer[3] or "", answer[4]) for answer in answers]
    context = Context("toy", "/", {}, 8, None, "0.12.0")
    context.request_ids = {index: answer[0] for index, answer in enumerate(answers)}
    context.request_processor = [RequestProcessor({}) for _ in answers]
    ours: list[Any] = []
    for index, (_, body, status, phrase, headers) in enumerate(answers):
        media_type = headers.pop("content-type", "application/json")
        context.set_response_status(status, phrase, index)
        context.set_response_content_type(index, media_type)
        for name, value in headers.items():
            context.set_response_header(index, name, value)
        ours.append(SimpleNamespace(status=status, phrase=phrase, media_type=media_type, body=body,
                                    headers=tuple(headers.items())))  # fmt: skip
    bodies = [answer[1] for answer in answers]
    expected = stock.create_predict_response(bodies, context.request_ids, "Prediction success", 200, context=context)
    batch = [wire.Item(answer[0], {}, {}, {}) for answer in answers]
    assert wire.encode_answers(batch, ours) == bytes(expected)


@FAST
@given(answers=ANSWERS)
def test_any_response_has_the_bytes_of_torchserves_own(answers: list[Any]) -> None:
    context = Context("toy", "/", {}, 8, None, "0.12.0")
    context.request_ids = {index: answer[0] for index, answer in enumerate(answers)}
    processors = []
    for _, _, status, phrase, headers in answers:
        processor = RequestProcessor({})
        processor.report_status(status, phrase)
        for name, value in headers.items():
            processor.add_response_property(name, value)
        processors.append(processor)
    context.request_processor = processors
    bodies = [answer[1] for answer in answers]
    expected = stock.create_predict_response(bodies, context.request_ids, "Prediction success", 200, context=context)
    assert encode(bodies, context) == bytes(expected)
