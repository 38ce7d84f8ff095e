"""TorchServe 0.12.0's messages in bulk: one connection's bytes to items, outcomes to the bytes of a response.

The bytes on the socket are those of TorchServe's own encoder and decoder, in both directions; tests compare them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from handlers.messages import Outcome

_INT = struct.Struct("!i")
_write_int = _INT.pack
_END = _INT.pack(-1)
# Lengths are read without their sign: -1 ends a list, and any other negative length is more than an item may have. That
# is checked only where bytes are missing, so it costs nothing where none are.
_read_int = struct.Struct("!I").unpack_from
_LAST = 0xFFFFFFFF
_LONGEST_ITEM = 1 << 31
#: Bytes of one recv; a usual batch comes in one.
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
        """TorchServe's properties of the request: field name to its own headers, then header name to value."""
        return {**{name: {"content-type": kind} for name, kind in self.types.items()}, **self.headers}


class Batch(list[Item]):
    """A decoded inference message; its type tells it from TorchServe's own list of dicts."""


class Disconnected(Exception):
    """The node closed the connection."""


class _Short(Exception):
    """The item does not lie whole in memory yet; its next part ends at `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class Reader:
    """Reads one connection in large blocks and parses from memory; keeps bytes that belong to the next message."""

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
        """The item at `_at`, as if all of it were in memory; a check before each field would cost a third more."""
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
        """Hold at least `end` bytes, counted from the begin of the held ones; bytes before `_at` are dropped."""
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
    parts = []
    for item, answer in zip(batch, answers, strict=True):
        headers = (("content-type", answer.media_type), *answer.headers)
        parts.append((item.request_id, head(answer.media_type, answer.status, answer.phrase, headers), answer.body))
    return predicted(parts)


def predicted(answers: Iterable[tuple[str, bytes, bytes]]) -> bytes:
    """A predict response with status 200, of ids of requests, each with a `head` and a body."""
    parts = [_PREDICTED]
    for request_id, before, body in answers:
        name = request_id.encode()
        parts += (_write_int(len(name)), name, before, _write_int(len(body)), body)
    parts.append(_END)
    return b"".join(parts)


_PREDICTED = _write_int(200) + _write_int(18) + b"Prediction success"


@lru_cache(_REMEMBERED)
def head(media_type: str, status: int | None, phrase: str, headers: tuple[tuple[str, str], ...]) -> bytes:
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
