"""Sends fuzzed items through a worker between two good ones, and holds every answer against the invariants."""

from __future__ import annotations

import json
import zlib
from typing import Any

from ts.protocol import otf_message_handler

from handlers.adapters.torchserve.wire import Batch
from tests.support.messages import Connection, message
from tests.support.workers import CHECKOUT, JSON, PROBLEM, PROBLEM_FIELDS, Reply, Worker, close, replies

#: What a request may come to. A 500 is not among them: the models of the targets do not fail.
STATUSES = {200, 400, 413, 415, 422, 501, 504}
#: Words that only a stack trace or this machine's own paths bring into an answer.
PRIVATE = (b"Traceback (most", b"/site-packages", str(CHECKOUT).encode())
LONGEST_PROBLEM = 16_384

#: Headers, and form fields with their media types; the id is given by the order.
Request = tuple[list[tuple[str, str]], list[tuple[str, str, bytes]]]


class Between:
    """A worker and a good sample of its archive, which stands before and after all that is fuzzed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        samples = sorted((worker.folder / "samples").iterdir())
        self._good = bare(next(path for path in samples if path.suffix == ".json").read_bytes(), JSON)
        [self._expected] = self._answers([self._good], 1 << 18)
        assert self._expected.status == 200, self._expected

    def check(self, requests: list[Request]) -> None:
        """All go in as one message, in pieces whose size the content decides; each has one right outcome."""
        batch = [self._good, *requests, self._good]
        content = b"".join(value for _, fields in requests for _, _, value in fields)
        first, *found, last = self._answers(batch, 1 + zlib.crc32(content) % 5000)
        assert len(found) == len(requests), (len(found), len(requests))
        for request, reply in zip(requests, found, strict=True):
            assert_outcome(reply, request)
        for neighbour in (first, last):
            assert neighbour.status == 200, neighbour
            assert close(neighbour.json(), self._expected.json()), "the neighbour's answer changed"

    def _answers(self, batch: list[Request], piece: int) -> list[Reply]:
        content = message([(f"request-{number}", *request) for number, request in enumerate(batch)])
        command, decoded = otf_message_handler.retrieve_msg(Connection(content, [piece]))
        assert command == b"I"
        assert isinstance(decoded, Batch), "the message went another way than handlers/adapters/torchserve/wire.py's"
        return replies(bytes(self._worker.service.predict(decoded)))


def bare(body: bytes, media_type: str) -> Request:
    """A request whose body is no form; an empty media type stands for a client that names none."""
    return ([("Content-Type", media_type)] if media_type else [], [("body", media_type, body)])


def assert_outcome(reply: Reply, request: Request) -> None:
    """The reply is an answer or a problem document, whole, and tells nothing about the machine."""
    assert reply.status in STATUSES, (reply.status, reply.body[:300])
    for name, value in reply.headers.items():
        assert (name + value).isprintable(), (name, value)  # or a client could write headers of its own
    document = reply.json()  # raises for NaN and infinities, which are not JSON
    if reply.status == 200:
        assert reply.media_type == JSON
        return
    assert reply.media_type == PROBLEM
    _assert_problem(document, reply)
    sent = repr(request).encode()
    for told in PRIVATE:
        assert told not in reply.body or told in sent, reply.body[:300]


def _assert_problem(document: dict[str, Any], reply: Reply) -> None:
    assert document.keys() - {"errors"} == PROBLEM_FIELDS, document.keys()
    assert document["status"] == reply.status
    assert ("errors" in document) == (reply.status == 422)
    for entry in document.get("errors", []):
        assert entry.keys() == {"field", "message"}, entry
    assert all(isinstance(document[name], str) and document[name] for name in ("type", "title", "detail"))
    request_id = document["request_id"]
    assert isinstance(request_id, str), request_id
    assert request_id.isprintable(), request_id
    assert reply.headers["x-model-version"] == document["version"]
    assert len(reply.body) <= LONGEST_PROBLEM, len(reply.body)
    json.dumps(document, ensure_ascii=False).encode()  # raises for halves of characters
