"""The bulk decoder and encoder against TorchServe's own: equal requests out of equal bytes, and equal bytes out."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler as stock
from ts.service import Service

from handlers import wire
from handlers.wire import Batch, Disconnected, Reader

TEXT = st.text(max_size=12)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
BODY = st.one_of(st.binary(max_size=60), st.integers(0, 70_000).map(bytes))
REQUESTS = st.lists(
    st.tuples(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=6), st.lists(st.tuples(TEXT, ASCII, BODY), max_size=3)),
    max_size=5,
)
FAST = settings(max_examples=150, deadline=None)


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def message(requests: list[Any]) -> bytes:
    """An inference command as the node writes it."""
    end = struct.pack("!i", -1)
    parts = [b"I"]
    for request_id, headers, parameters in requests:
        parts.append(field(request_id.encode()))
        parts += [field(name.encode()) + field(value.encode()) for name, value in headers]
        parts.append(end)
        parts += [field(name.encode()) + field(kind.encode()) + field(value) for name, kind, value in parameters]
        parts.append(end)
    return b"".join([*parts, end])


class Connection:
    """A socket on which bytes come in pieces of given sizes, again and again in that order."""

    def __init__(self, content: bytes, pieces: list[int]) -> None:
        self.content = memoryview(content)
        self.pieces = pieces
        self.calls = 0

    def recv(self, length: int) -> bytes:
        piece = self.pieces[self.calls % len(self.pieces)]
        self.calls += 1
        taken, self.content = self.content[: min(length, piece)], self.content[min(length, piece) :]
        return bytes(taken)


@pytest.fixture(autouse=True, scope="module")
def raw_bodies() -> Iterator[None]:
    """As in a worker whose handler has switched to raw bodies."""
    before = os.environ.get("TS_DECODE_INPUT_REQUEST")
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
    yield
    os.environ.pop("TS_DECODE_INPUT_REQUEST")
    if before is not None:
        os.environ["TS_DECODE_INPUT_REQUEST"] = before


def stock_decoded(content: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[int, str]]:
    connection = Connection(content[1:], [1 << 20])
    headers, fields, ids = Service.retrieve_data_for_inference(stock._retrieve_inference_msg(connection))
    return [processor.get_request_properties() for processor in headers], fields, ids


def decoded(batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[int, str]]:
    ids = {index: item.request_id for index, item in enumerate(batch)}
    return [item.properties for item in batch], [item.fields for item in batch], ids


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
    assert wire.encode(bodies, context) == bytes(expected)
