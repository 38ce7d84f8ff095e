"""Inference messages as the node writes them, and how TorchServe's own decoder reads them."""

from __future__ import annotations

import struct
from typing import Any

from ts.protocol import otf_message_handler as stock
from ts.service import Service

from handlers.adapters.torchserve.wire import Batch

END = struct.pack("!i", -1)


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def message(requests: list[Any]) -> bytes:
    """An inference command as the node writes it.

    Args:
        requests: (id, headers as (name, value), form fields as (name, media type, value in bytes)) of each item.
    """
    parts = [b"I"]
    for request_id, headers, parameters in requests:
        parts.append(field(request_id.encode()))
        parts += [field(name.encode()) + field(value.encode()) for name, value in headers]
        parts.append(END)
        parts += [field(name.encode()) + field(kind.encode()) + field(value) for name, kind, value in parameters]
        parts.append(END)
    return b"".join([*parts, END])


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


def stock_decoded(content: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[int, str]]:
    """Properties, fields and ids of a message's items out of TorchServe's decoder; bodies raw only where
    TS_DECODE_INPUT_REQUEST is false."""
    connection = Connection(content[1:], [1 << 20])
    headers, fields, ids = Service.retrieve_data_for_inference(stock._retrieve_inference_msg(connection))
    return [processor.get_request_properties() for processor in headers], fields, ids


def decoded(batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[int, str]]:
    """The same of a batch that handlers/adapters/torchserve/wire.py read."""
    ids = {index: item.request_id for index, item in enumerate(batch)}
    return [item.properties for item in batch], [item.fields for item in batch], ids
