"""Messages between the accepting process and a worker, over a Unix socket: a length, a kind and a content.

The worker trusts the accepting process, and reads batches with `marshal`. The accepting process does not trust a
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

#: Of the messages BATCH and ANSWERS; another number with every change. A worker tells it when it is ready, because it
#: may run another build of this package than the process that accepts requests. READY and REFUSED never change.
FORMAT = 1
BATCH, ANSWERS, READY, REFUSED = b"B", b"A", b"R", b"X"
#: Bytes of the longest message; a worker that announces a longer one is ended.
LONGEST = 1 << 30

_LENGTH = struct.Struct("!I")
_ITEM = struct.Struct("!HII")  # status, bytes of the headers, bytes of the body
_MARSHAL_VERSION = 2  # without references, which cost more than they save here

Headers = Sequence[tuple[bytes, bytes]]

#: Each line of an answer's headers: what no client can take for the end of one.
_HEADER_LINE = re.compile(rb"([a-z0-9-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: Bytes of an answer's headers together.
LONGEST_HEADERS = 1 << 14
#: Headers that say where an answer ends, and what becomes of the connection: they are the server's.
_FRAMING = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade")
)  # fmt: skip
#: Statuses whose answers have no body, so that a body would be read as the next answer.
_BODILESS = (204, 304)


class Item(NamedTuple):
    """One request of a batch."""

    headers: Headers  # as ASGI has them: names in lower case
    body: bytes
    request_id: str  # where the client sent none
    is_infer: bool  # of the Open Inference Protocol


class Answer(NamedTuple):
    """The answer to one item."""

    status: int
    headers: Headers
    body: bytes


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
        if at > len(content):
            raise MalformedFrame(f"an answer ends {at - len(content)} bytes after its message")
        if not 200 <= status <= 599 or status in _BODILESS:
            raise MalformedFrame(f"an answer has the status {status}")
        answers.append(Answer(status, _headers(content[begin - headers : begin]), content[begin:at]))
    return answers


@lru_cache(256)
def _headers(block: bytes) -> Headers:
    """The headers of one answer, a tuple; most answers of a worker have the same."""
    lines = [_HEADER_LINE.fullmatch(line) for line in block.split(b"\n") if line]
    if None in lines or len(block) > LONGEST_HEADERS:
        raise MalformedFrame("an answer has a header that is none, or too many")
    headers = tuple((line[1], line[2]) for line in lines if line is not None)
    if not _FRAMING.isdisjoint(name for name, _ in headers):
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
