"""Changes inference messages field by field, so that the lengths before the fields stay right."""

from __future__ import annotations

import struct
from random import Random

from tests.fuzz import pictures, texts
from tests.fuzz.surface import Mutate
from tests.support.messages import message

#: Id, headers, and form fields with their media types, as `messages.message` takes them.
Read = tuple[str, list[tuple[str, str]], list[tuple[str, str, bytes]]]

#: Header names and values that mean something to a handler or to TorchServe.
NAMES = (
    *(
        "Content-Type",
        "content-type",
        "X-Request-Id",
        "x-request-id",
        "x-request-timeout-ms",
        "x-tsctl-sent-ms",
        "cache-control",
    ),
    *("explain", "describe", "body", "data", "", "traceparent", "Authorization", "\u0130", "ts_stream_next"),
)
VALUES = (
    *("application/json", "image/png", "image/jpeg", "multipart/form-data; boundary=x", "text/plain", "*/*", ";", " "),
    *("application/x-www-form-urlencoded", "application/json; charset=utf-16", "APPLICATION/JSON ", "True", "true"),
    *("0", "1", "-1", "999999999999999", "1000000000000000", "9" * 5000, "\u0661", "1e3", " 1", "1_0", "0x1", "NaN"),
    *("no-store", "no-cache, no-store", "max-age=0", "a" * 128, "a" * 129, "a\r\nx-injected: 1", "\0", "\U0001f642"),
)
_MOST = 6


def read(content: bytes) -> list[Read]:
    """The items of a message, of any bytes: a length that does not fit counts as what is left."""
    reader = _Lenient(content[1:])
    items: list[Read] = []
    while len(items) < _MOST and (request_id := reader.text()) is not None:
        headers: list[tuple[str, str]] = []
        while (name := reader.text()) is not None:
            headers.append((name, reader.text() or ""))
        parts: list[tuple[str, str, bytes]] = []
        while (name := reader.text()) is not None:
            parts.append((name, reader.text() or "", reader.field() or b""))
        items.append((request_id, headers, parts))
    return items


class _Lenient:
    """Reads fields; None at the end of a list and at the end of all."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def field(self) -> bytes | None:
        if self._at + 4 > len(self._content):
            return None
        (length,) = struct.unpack_from("!i", self._content, self._at)
        self._at += 4
        if length < 0:
            return None
        self._at += length
        return self._content[self._at - length : self._at]

    def text(self) -> str | None:
        found = self.field()
        return None if found is None else found.decode("utf-8", "replace")


def mutate(content: bytes, longest: int, random: Random, change: Mutate) -> bytes:
    """One header, form field or item changed, removed, repeated or new."""
    items = read(content) or [("request", [], [])]
    at = random.randrange(len(items))
    request_id, headers, parts = items[at]
    kind = random.randrange(8)
    if kind == 0:
        items.insert(at, random.choice(items))
    elif kind == 1:
        del items[at]
    elif kind in (2, 3):
        _change_headers(headers, random, change)
    elif kind == 4:
        _change_forms(parts, random, change)
    elif kind == 5:
        items[at] = (_text(request_id, random, change), headers, parts)
    elif parts:
        place = random.randrange(len(parts))
        name, media_type, value = parts[place]
        how = random.choice((texts.mutate, pictures.mutate))
        parts[place] = (name, media_type, how(value, len(value) + 64, random, change))
    return message(items)[:longest]


def _change_headers(headers: list[tuple[str, str]], random: Random, change: Mutate) -> None:
    if not headers or random.random() < 0.4:
        headers.insert(random.randrange(len(headers) + 1), (random.choice(NAMES), random.choice(VALUES)))
        return
    place = random.randrange(len(headers))
    name, value = headers[place]
    kind = random.randrange(4)
    if kind == 0:
        del headers[place]
    elif kind == 1:
        headers[place] = (name, random.choice(VALUES))
    elif kind == 2:
        headers[place] = (_text(name, random, change), value)
    else:
        headers[place] = (name, _text(value, random, change))


def _change_forms(parts: list[tuple[str, str, bytes]], random: Random, change: Mutate) -> None:
    if not parts or random.random() < 0.3:
        parts.append((random.choice(NAMES), random.choice(VALUES), random.choice((b"", b"{}", b"\xff"))))
        return
    place = random.randrange(len(parts))
    name, media_type, value = parts[place]
    kind = random.randrange(4)
    if kind == 0:
        del parts[place]
    elif kind == 1:
        parts[place] = (name, random.choice(VALUES), value)
    elif kind == 2:
        parts[place] = (random.choice((*NAMES, _text(name, random, change))), media_type, value)
    else:
        parts[place] = (name, _text(media_type, random, change), value)


def _text(text: str, random: Random, change: Mutate) -> str:
    if random.random() < 0.2:
        return text.swapcase()
    return change(text.encode(), len(text.encode()) + 32).decode("utf-8", "replace")
