"""Any bytes to the bulk decoder, and what it reads back through the encoder, against TorchServe's own of both."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from random import Random
from typing import Any

from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler as stock

from handlers.adapters.torchserve import wire
from handlers.adapters.torchserve.context import encode
from handlers.adapters.torchserve.entry import read_request
from handlers.adapters.torchserve.wire import Batch, Disconnected, Reader
from tests.fuzz import fields
from tests.fuzz.surface import Mutate, Surface
from tests.support.messages import Connection, decoded, message, stock_decoded
from tests.support.workers import CHECKOUT, JSON

#: More than the 64 KiB that one header takes at most, for each of the bytes of an input.
_MOST_CALLS = 20_000


def open_surface(folder: Path) -> Surface:
    """Needs no worker; `folder` stays empty."""
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # as in a worker, whose handler has switched to raw bodies
    return Surface(check, seeds(), mutate, tokens=tuple(name.encode() for name in fields.NAMES if name))


def check(content: bytes) -> None:
    """The decoder reads the message as TorchServe does, or refuses it; the encoder writes TorchServe's bytes."""
    batch = read(content)
    if batch is None:
        return
    assert decoded(batch) == stock_decoded(b"I" + content[1:])
    for item in batch:
        assert_item(item)
    assert_encoded(batch)
    assert_told_apart(content, batch)


def read(content: bytes) -> Batch | None:
    """The batch that the bytes hold in pieces of a size that they decide; None where they hold none."""
    connection = Connection(content, [1 + zlib.crc32(content) % 3000, 1, 7])
    reader = Reader(connection.recv)
    try:
        reader.take(1)
        return reader.batch()
    except (Disconnected, ValueError):  # cut, or not what a node writes: the worker ends, and the node starts another
        return None
    finally:
        assert connection.calls <= _MOST_CALLS, "the decoder does not come to an end"


def assert_item(item: wire.Item) -> None:
    """The item becomes a request, or one with the error that answers it."""
    request = read_request(item)
    assert request.error is None or request.error.status in (400, 415, 501), request.error
    assert type(request.body) is bytes
    assert request.media_type == request.media_type.strip().lower()


def assert_encoded(batch: Batch) -> None:
    """Answers made of what was read: statuses, phrases and headers that no handler of ours would write."""
    context: Any = Context("toy", "/", {}, 8, None, "0.12.0")
    context.request_ids = {index: item.request_id for index, item in enumerate(batch)}
    context.request_processor = [answered(index, item) for index, item in enumerate(batch)]
    bodies = [b"".join(item.fields.values()) for item in batch]
    ours = encode(bodies, context)
    assert ours == bytes(
        stock.create_predict_response(bodies, context.request_ids, "Prediction success", 200, context=context)
    )


def answered(index: int, item: wire.Item) -> RequestProcessor:
    """TorchServe's own record of an answer, with the request's headers as the answer's."""
    processor = RequestProcessor({})
    processor.report_status((None, 200, 422, 500)[index % 4], (None, "OK", item.request_id)[index % 3])
    for name, value in item.properties.items():
        if isinstance(value, str) and name != "ts_stream_next":  # the word of streamed answers, which go another way
            processor.add_response_property(name.lower(), value)
    return processor


def assert_told_apart(content: bytes, batch: Batch) -> None:
    """Two messages on one connection are two, and what is cut off is no message."""
    whole = message([(item.request_id, *_lists(item)) for item in batch])
    reader = Reader(Connection(whole + whole, [1 + len(content) % 997]).recv)
    for _ in range(2):
        assert reader.take(1) == b"I"
        assert decoded(reader.batch()) == decoded(batch)
    cut = Reader(Connection(whole[: zlib.crc32(content) % len(whole)], [64]).recv)
    try:
        cut.take(1)
        cut.batch()
    except Disconnected:
        return
    raise AssertionError("a message that was cut off was read as a whole one")


def _lists(item: wire.Item) -> tuple[list[tuple[str, str]], list[tuple[str, str, bytes]]]:
    return list(item.headers.items()), [(name, item.types[name], value) for name, value in item.fields.items()]


def mutate(content: bytes, longest: int, random: Random, change: Mutate) -> bytes:
    """Half the time the message stays one."""
    return (
        fields.mutate(content, longest, random, change)[:longest] if random.random() < 0.5 else change(content, longest)
    )


def seeds() -> dict[str, bytes]:
    """Messages of the archives' samples, of odd headers, and of lengths that cannot be."""
    samples = [path.read_bytes() for path in sorted((CHECKOUT / "archives").glob("*/samples/*")) if path.is_file()]
    headers = [("Content-Type", JSON), ("x-request-id", "1"), ("host", "127.0.0.1")]
    found = {
        f"sample-{number}": message([("id", headers, [("body", JSON, body)])])
        for number, body in enumerate(samples)
        if len(body) < 3000
    }
    odd = list(zip(fields.NAMES, fields.VALUES, strict=False))
    found["none"] = message([])
    found["many"] = message([(str(n), headers[:n], [("data", "", b"\0" * n)] * n) for n in range(5)])
    found["odd"] = message([("\u00e9", odd, [("data", "text/plain", b"1"), ("body", "", b"")])])
    found["pickle"] = b"I" + b"\x80\x04\x95" * 5
    return found
