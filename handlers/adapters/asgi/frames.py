"""Messages between the accepting process and a worker, over a Unix socket: a length, a kind and a content.

A worker that computes batches gets BATCH and gives ANSWERS. One that generates text gets SUBMIT and CANCEL at any time,
and gives PARTS: what a step gave to all its answers is one message.

The worker trusts the accepting process, and reads its messages with `marshal`. The accepting process does not trust a
worker, which runs the author's code: answers are parsed by length, and reports are JSON. Both run the same Python, and
packages of the same FORMAT.
"""

from __future__ import annotations

import json
import marshal
import re
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

#: Of all messages but READY and REFUSED, which never change; another number with every change. A worker tells it when
#: it is ready, because it may run another build of this package than the process that accepts requests.
FORMAT = 2
BATCH, ANSWERS, READY, REFUSED = b"B", b"A", b"R", b"X"
SUBMIT, CANCEL, PARTS = b"S", b"C", b"P"
#: Bytes of the longest message; a worker that announces a longer one is ended.
LONGEST = 1 << 30

_LENGTH = struct.Struct("!I")
_ITEM = struct.Struct("!HII")  # status, bytes of the headers, bytes of the body
_PART = struct.Struct("!IBHII")  # ticket, _HAS_HEAD and _IS_LAST, then as _ITEM
_HAS_HEAD, _IS_LAST = 1, 2
_MARSHAL_VERSION = 2  # without references, which cost more than they save here

Headers = Sequence[tuple[bytes, bytes]]

#: Each line of an answer's headers: what no client can take for the end of one.
_HEADER_LINE = re.compile(rb"([a-z0-9-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: Bytes of an answer's headers together.
LONGEST_HEADERS = 1 << 14
#: Headers that say where an answer ends, and what becomes of the connection: they are the server's.
FRAMING = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade")
)  # fmt: skip
#: Statuses whose answers have no body, so that a body would be read as the next answer.
_BODILESS = (204, 304)


class Item(NamedTuple):
    """One request."""

    headers: Headers  # as ASGI has them: names in lower case
    body: bytes
    request_id: str  # where the client sent none
    protocol: str = ""  # a value of PROTOCOL_HEADER, by the request's path; empty: as its own header says


class Answer(NamedTuple):
    """The answer to one item."""

    status: int
    headers: Headers
    body: bytes


class Head(NamedTuple):
    """What comes before the body of an answer in parts."""

    status: int
    headers: Headers


class Part(NamedTuple):
    """A part of an answer; the first one has a head, and an answer may be one part."""

    ticket: int  # of its request, among those of the worker
    head: Head | None
    body: bytes
    is_last: bool


class MalformedFrame(ValueError):
    """The worker sent something else than the frames of this module."""


def frame(kind: bytes, content: bytes) -> bytes:
    """One message."""
    return b"".join((_LENGTH.pack(len(content) + 1), kind, content))


def batch_frame(items: Sequence[Item]) -> bytes:
    """A batch for a worker."""
    return frame(BATCH, marshal.dumps([tuple(item) for item in items], _MARSHAL_VERSION))


def read_batch(content: bytes) -> list[Item]:
    """The items of a batch."""
    return [Item(*fields) for fields in marshal.loads(content)]  # noqa: S302 - of the process that started this one


def answers_frame(answers: Sequence[Answer]) -> bytes:
    """The answers to a batch, in the order of its items."""
    parts: list[bytes] = []
    for status, headers, body in answers:
        block = b"\n".join(b"%b:%b" % header for header in headers)
        parts += (_ITEM.pack(status, len(block), len(body)), block, body)
    return frame(ANSWERS, b"".join(parts))


def read_answers(content: bytes) -> list[Answer]:
    """The answers of a message.

    Raises:
        MalformedFrame: a length does not fit, a header is none, or a client would take the end of the answer for
            another place than it is.
    """
    answers, at = [], 0
    while at < len(content):
        try:
            status, headers, body = _ITEM.unpack_from(content, at)
        except struct.error as error:
            raise MalformedFrame(str(error)) from None
        begin = at + _ITEM.size + headers
        at = begin + body
        _check(status, at - len(content))
        answers.append(Answer(status, _headers(content[begin - headers : begin]), content[begin:at]))
    return answers


def _check(status: int, beyond: int) -> None:
    """Refuse an answer with such a status, or which ends so many bytes after its message."""
    if beyond > 0:
        raise MalformedFrame(f"an answer ends {beyond} bytes after its message")
    if not 200 <= status <= 599 or status in _BODILESS:
        raise MalformedFrame(f"an answer has the status {status}")


def submit_frame(ticket: int, item: Item) -> bytes:
    """A request for a worker that generates text."""
    return frame(SUBMIT, marshal.dumps([(ticket,), tuple(item)], _MARSHAL_VERSION))


def read_submit(content: bytes) -> tuple[int, Item]:
    """The ticket and the request."""
    [(ticket,), fields] = marshal.loads(content)  # noqa: S302 - of the process that started this one
    return ticket, Item(*fields)


def cancel_frame(ticket: int) -> bytes:
    """Nobody reads the answer to this request any more."""
    return frame(CANCEL, marshal.dumps(ticket, _MARSHAL_VERSION))


def read_cancel(content: bytes) -> int:
    """The ticket of the request whose client is gone."""
    ticket: int = marshal.loads(content)  # noqa: S302 - of the process that started this one
    return ticket


def parts_frame(parts: Sequence[Part]) -> bytes:
    """What a step gave to all answers of a worker."""
    pieces: list[bytes] = []
    for ticket, head, body, is_last in parts:
        status, headers = head or (200, ())
        block = b"\n".join(b"%b:%b" % header for header in headers)
        flags = (_HAS_HEAD if head is not None else 0) | (_IS_LAST if is_last else 0)
        pieces += (_PART.pack(ticket, flags, status, len(block), len(body)), block, body)
    return frame(PARTS, b"".join(pieces))


def read_parts(content: bytes) -> list[Part]:
    """The parts of a message.

    Raises:
        MalformedFrame: as of `read_answers`.
    """
    parts, at = [], 0
    while at < len(content):
        try:
            ticket, flags, status, headers, body = _PART.unpack_from(content, at)
        except struct.error as error:
            raise MalformedFrame(str(error)) from None
        begin = at + _PART.size + headers
        at = begin + body
        _check(status, at - len(content))
        head = Head(status, _headers(content[begin - headers : begin])) if flags & _HAS_HEAD else None
        parts.append(Part(ticket, head, content[begin:at], bool(flags & _IS_LAST)))
    return parts


@lru_cache(256)
def _headers(block: bytes) -> Headers:
    """The headers of one answer, a tuple; most answers of a worker have the same."""
    lines = [_HEADER_LINE.fullmatch(line) for line in block.split(b"\n") if line]
    if None in lines or len(block) > LONGEST_HEADERS:
        raise MalformedFrame("an answer has a header that is none, or too many")
    headers = tuple((line[1], line[2]) for line in lines if line is not None)
    if not FRAMING.isdisjoint(name for name, _ in headers):
        raise MalformedFrame("an answer has a header that is the server's to set")
    return headers


def report_frame(kind: bytes, facts: dict[str, Any]) -> bytes:
    """A report of the worker on itself."""
    return frame(kind, json.dumps(facts).encode())


def read_report(content: bytes) -> dict[str, Any]:
    """The facts of a report.

    Raises:
        MalformedFrame: they are no JSON object.
    """
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(str(error)) from None
    if not isinstance(facts, dict):
        raise MalformedFrame("a report is a JSON object")
    return facts


class Unpacker:
    """Cuts received bytes into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, received: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Kind and content of each message that is complete now.

        Raises:
            MalformedFrame: a message is empty, or longer than LONGEST.
        """
        self._held += received
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if not 1 <= length <= LONGEST:
                raise MalformedFrame(f"a message has {length} bytes")
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            message = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield message[:1], message[1:]
