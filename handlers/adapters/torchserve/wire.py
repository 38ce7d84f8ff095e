"""Makes TorchServe 0.12.0's worker read and write its messages in bulk; the only file that knows TorchServe's insides.

TorchServe's own decoder makes a system call for every integer and every field, about thirty a request, and decodes the
same header names again and again; its encoder grows one buffer field by field; and it logs two lines a batch, which the
node parses. That is more than the model costs where the model is small. `install` replaces three functions of the
worker's process. The bytes on the socket are the same in both directions, which tests hold against TorchServe's own.

Any other version of TorchServe, and any message that this file does not expect, goes TorchServe's own way.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from handlers.messages import Outcome

logger = logging.getLogger(__name__)

#: The version whose messages this file reads and writes.
TORCHSERVE = "0.12.0"

_INT = struct.Struct("!i")
_write_int = _INT.pack
_END = _INT.pack(-1)
# Lengths are read without their sign: -1 ends a list, and any other negative one is more than an item may have, which
# is found where bytes are missing, and costs nothing where none are.
_read_int = struct.Struct("!I").unpack_from
_LAST = 0xFFFFFFFF
_LONGEST_ITEM = 1 << 31
#: What one recv asks for; the usual batch comes in one.
_CHUNK = 1 << 18
#: Header names and header blocks that are remembered; a client that invents new ones costs no more than this memory.
_REMEMBERED = 1024


class Item(NamedTuple):
    """One request as it stands in its message."""

    request_id: str
    headers: dict[str, str]
    fields: dict[str, bytes]
    types: dict[str, str]  # the media type of each field, empty where the client gave none
    is_ambiguous: bool = False  # a field came more than once; its last value is kept, as TorchServe keeps it

    @property
    def properties(self) -> dict[str, Any]:
        """What TorchServe's service makes of it: field name to its own headers, then header name to value."""
        return {**{name: {"content-type": kind} for name, kind in self.types.items()}, **self.headers}


class Batch(list[Item]):
    """A decoded inference message; tells it from TorchServe's own list of dicts."""


class Disconnected(Exception):
    """The node closed the connection."""


class _Short(Exception):
    """The item does not lie whole in memory yet; its next part ends at `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class Reader:
    """Reads one connection in large blocks and parses from memory; keeps what came too early for the next message."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._held = b""
        self._at = 0
        self._names: dict[bytes, str] = {}

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            Disconnected: the connection ended before.
        """
        if self._at + count > len(self._held):
            self._fill(self._at + count)
        begin = self._at
        self._at += count
        return self._held[begin : self._at]

    def batch(self) -> Batch:
        """The items of an inference message, whose command byte was read already.

        Raises:
            Disconnected: the connection ended before.
            ValueError: a length is negative, or a text is not UTF-8: no node writes such a message.
        """
        items = Batch()
        while True:
            item = self._item()
            if item is None:
                return items
            items.append(item)

    def _item(self) -> Item | None:
        """The next item, None at the end of the list; parsed anew from its begin each time that bytes were missing."""
        while True:
            try:
                return self._parse()
            except _Short as short:
                if short.end - self._at >= _LONGEST_ITEM:
                    raise ValueError("TorchServe sent a length that no item has") from None
                self._fill(short.end)

    def _parse(self) -> Item | None:
        """What lies at `_at`, as if all of it were in memory; looking before each field would cost a third more."""
        held, at, length = self._held, self._at, 0
        names = self._names
        headers: dict[str, str] = {}
        fields: dict[str, bytes] = {}
        types: dict[str, str] = {}
        is_ambiguous = False
        try:
            (length,) = _read_int(held, at)
            at += 4
            if length == _LAST:
                self._at = at
                return None
            request_id = held[at : at + length].decode()
            at += length
            while True:
                (length,) = _read_int(held, at)
                at += 4
                if length == _LAST:
                    break
                raw = held[at : at + length]
                name = names.get(raw) or self._name(raw)
                at += length
                (length,) = _read_int(held, at)
                at += 4
                headers[name] = held[at : at + length].decode()
                at += length
            while True:
                (length,) = _read_int(held, at)
                at += 4
                if length == _LAST:
                    break
                field = held[at : at + length].decode()
                at += length
                (length,) = _read_int(held, at)
                at += 4
                types[field] = held[at : at + length].decode()
                at += length
                (length,) = _read_int(held, at)
                at += 4
                is_ambiguous = is_ambiguous or field in fields
                fields[field] = held[at : at + length]
                at += length
        except struct.error:
            raise _Short(at + 4) from None
        except UnicodeDecodeError:
            if at + length > len(held):  # a character that was cut
                raise _Short(at + length) from None
            raise
        if at > len(held):
            raise _Short(at)
        self._at = at
        return Item(request_id, headers, fields, types, is_ambiguous)

    def _name(self, raw: bytes) -> str:
        name = raw.decode()
        if len(self._names) < _REMEMBERED:
            self._names[raw] = name
        return name

    def _fill(self, end: int) -> None:
        """Hold at least `end` bytes, counted from the begin of what is held; what was read before `_at` is dropped."""
        chunks = [self._held[self._at :]]
        have = len(chunks[0])
        end -= self._at
        while have < end:
            chunk = self._receive(max(_CHUNK, end - have))
            if not chunk:
                raise Disconnected
            chunks.append(chunk)
            have += len(chunk)
        self._held = b"".join(chunks)
        self._at = 0


def encode_answers(batch: Sequence[Item], answers: Sequence[Outcome]) -> bytes:
    """A predict response with status 200 as TorchServe writes it: one answer per item."""
    parts = [_PREDICTED]
    for item, answer in zip(batch, answers, strict=True):
        request_id = item.request_id.encode()
        headers = (("content-type", answer.media_type), *answer.headers)
        parts += (
            _write_int(len(request_id)),
            request_id,
            _head(answer.media_type, answer.status, answer.phrase, headers),
            _write_int(len(answer.body)),
            answer.body,
        )
    parts.append(_END)
    return b"".join(parts)


def encode(answers: list[bytes], context: Any) -> bytes:
    """The same response out of what a handler's `handle` returned and put into the context."""
    parts = [_PREDICTED]
    for index, processor in enumerate(context.request_processor):
        request_id = context.request_ids[index].encode()
        headers: dict[str, str] = processor.get_response_headers()
        media_type = headers.get("content-type") or ""
        phrase = processor.get_response_status_phrase() or ""
        answer = answers[index]
        parts += (
            _write_int(len(request_id)),
            request_id,
            _head(media_type, processor.get_response_status_code(), phrase, tuple(headers.items())),
            _write_int(len(answer)),
            answer,
        )
    parts.append(_END)
    return b"".join(parts)


_PREDICTED = _write_int(200) + _write_int(18) + b"Prediction success"


@lru_cache(_REMEMBERED)
def _head(media_type: str, status: int | None, phrase: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """An answer's media type, status and headers; TorchServe counts the first two in characters, and so does this."""
    parts = [
        _write_int(len(media_type)),
        media_type.encode(),
        _write_int(200 if status is None else status),
        _write_int(len(phrase)),
        phrase.encode(),
        _write_int(len(headers)),
    ]
    for text in (part for pair in headers for part in pair):
        encoded = text.encode()
        parts += (_write_int(len(encoded)), encoded)
    return b"".join(parts)


def install(handler_object: Any, answer: Callable[[Sequence[Item]], Sequence[Outcome]] | None) -> bool:
    """From now on this worker's messages go through this file; False where TorchServe's own way stays.

    Nothing is done in a process that is no worker. May be called again.

    Args:
        handler_object: whose method `handle` TorchServe calls.
        answer: answers a batch in its place, without TorchServe's context; None: `handle` is called.
    """
    package = sys.modules.get("ts")
    handler = sys.modules.get("ts.protocol.otf_message_handler")
    service = sys.modules.get("ts.service")
    if package is None or handler is None or service is None:
        return False
    version = str(getattr(package, "__version__", "unknown"))
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return False  # one of several processes of one model: TorchServe answers through rank 0 alone
    if version != TORCHSERVE:
        logger.warning(
            "TorchServe %s: its own message decoder is used, wire.py knows %s",
            version,
            TORCHSERVE,
        )
        return False
    if service.Service.predict is not predict:
        _replace(handler, service)
    if answer is not None:
        _answers[handler_object] = answer
    return True


def _replace(handler: Any, service: Any) -> None:
    """Put this file's functions in place of TorchServe's, which it looks up in its modules at every call."""
    global _stock
    _stock = _Stock(handler._retrieve_load_msg, service.Service.predict, handler.create_predict_response)
    handler.retrieve_msg = retrieve_msg
    worker: Any = sys.modules["__main__"]
    if hasattr(worker, "retrieve_msg"):  # model_service_worker.py, which imported it by name
        worker.retrieve_msg = retrieve_msg
    service.Service.predict = predict


class _Stock(NamedTuple):
    """What was replaced, or is still needed."""

    retrieve_load_msg: Callable[[Any], dict[str, Any]]
    predict: Callable[[Any, Any], Any]
    create_predict_response: Callable[..., Any]


_stock: _Stock
_answers: WeakKeyDictionary[Any, Callable[[Sequence[Item]], Sequence[Outcome]]] = WeakKeyDictionary()
_readers: WeakKeyDictionary[Any, Reader] = WeakKeyDictionary()


def retrieve_msg(connection: Any) -> tuple[bytes, Any]:
    """The next command and its message; ends the process where the node is gone, as TorchServe does."""
    reader = _readers.get(connection)
    if reader is None:
        reader = _readers[connection] = Reader(connection.recv)
    try:
        command = reader.take(1)
        if command == b"I":
            return command, reader.batch()
        if command == b"L":
            return command, _stock.retrieve_load_msg(_Connection(reader))
    except Disconnected:
        logger.info("the node is gone")
        sys.exit(0)
    raise ValueError(f"TorchServe sent the unknown command {command!r}")


class _Connection:
    """A reader with the one method of a socket that TorchServe's decoder calls."""

    def __init__(self, reader: Reader) -> None:
        self.recv = reader.take


def predict(self: Any, batch: Any) -> Any:
    """`Service.predict`: the response to a batch, without a line in the log for each."""
    if not isinstance(batch, Batch):
        return _stock.predict(self, batch)
    answer = _answers.get(getattr(self._entry_point, "__self__", None))
    if answer is None:
        return _through_context(self, batch)
    try:
        return encode_answers(batch, answer(batch))
    except Exception:
        logger.exception("the handler failed on a batch of %d", len(batch))
        return _failed(batch)


def _failed(batch: Batch) -> Any:
    """TorchServe's own words for a batch whose handler raised, as one of ours does not, but an author's might."""
    return _stock.create_predict_response(None, _ids(batch), "Prediction failed", 503)


def _ids(batch: Batch) -> dict[int, str]:
    return {index: item.request_id for index, item in enumerate(batch)}


def _through_context(self: Any, batch: Batch) -> Any:
    """The response of a handler that has a `handle` of its own."""
    from ts.context import RequestProcessor

    context = self.context
    context.request_ids = ids = _ids(batch)
    context.request_processor = [RequestProcessor(item.properties) for item in batch]
    context.metrics.request_ids = ids
    context.cl_socket = self.cl_socket
    try:
        answers = self._entry_point([item.fields for item in batch], context)
    except Exception:
        logger.exception("the handler failed on a batch of %d", len(batch))
        return _failed(batch)
    if (
        isinstance(answers, list)
        and len(answers) == len(batch)
        and all(type(answer) is bytes for answer in answers)
        and context.stopping_criteria is None
    ):
        return encode(answers, context)
    if not isinstance(answers, list) or len(answers) != len(batch):
        logger.error("handle gave no list of %d answers", len(batch))
        return _stock.create_predict_response(None, ids, "Invalid model predict output", 503)
    return _stock.create_predict_response(answers, ids, "Prediction success", 200, context=context)
