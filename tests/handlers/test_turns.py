"""A text worker behind TorchServe's continuous batching: who is asked again, what each gets, and what ends when.

`Node` keeps TorchServe 0.12.0's own rules (ContinuousBatching.java), and fails where TorchServe would end the worker.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.torchserve.entry import read_request
from handlers.adapters.torchserve.turns import Turns
from handlers.adapters.torchserve.wire import Item
from handlers.contract import JSON, OPENAI_CHAT, PROTOCOL_HEADER, SILENT_S
from tests.handlers.text.test_text_worker import Site, serving

DONE = b"data: [DONE]\n\n"
GIVE_UP_S = 30.0


@dataclass
class Job:
    """A request that the node has, and what its client got."""

    item: Item
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_open: bool = True  # the client's connection
    has_ended: bool = False


@dataclass
class Node:
    """The node's side of the turns."""

    turns: Turns
    jobs: dict[str, Job] = field(default_factory=dict)
    made: int = 0

    def add(self, body: Any, **headers: str) -> Job:
        self.made += 1
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
        job = Job(Item(f"job-{self.made}", sent, {"body": content}, {"body": JSON}))
        self.jobs[job.item.request_id] = job
        return job

    def turn(self) -> None:
        listed = [job.item if not job.status else job.item._replace(fields={}, types={}) for job in self.jobs.values()]
        for request_id, status, headers, body in decoded(self.turns.respond(listed)):
            job = self.jobs[request_id]  # TorchServe ends the worker where there is none
            more = headers.pop("ts_stream_next", None)
            assert not (more and status >= 400), "TorchServe closes the connection before the body"
            if more is None or not job.status:
                assert not job.status, "a second answer in one piece"
                assert more != "false", "the last part has no head before it"
                job.status, job.headers = status, headers
            job.body += body
            if more != "true":
                job.has_ended = True
            if more != "true" or not job.is_open:
                del self.jobs[request_id]

    def until(self, *jobs: Job) -> None:
        end = time.monotonic() + GIVE_UP_S
        while not all(job.has_ended for job in jobs):
            assert time.monotonic() < end, "a job does not end"
            self.turn()


def decoded(message: bytes) -> Iterator[tuple[str, int, dict[str, str], bytes]]:
    """The answers in a worker's message: whose, status, headers, body."""
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        value: int = struct.unpack_from("!i", message, at - 4)[0]
        return value

    def text() -> bytes:
        nonlocal at
        length = number()
        at += length
        return message[at - length : at]

    assert number() == 200
    text()
    while (length := number()) != -1:
        at += length
        request_id = message[at - length : at].decode()
        text()  # the media type, which is among the headers as well
        status = number()
        text()
        headers = {text().decode(): text().decode() for _ in range(number())}
        yield request_id, status, headers, text()
    assert at == len(message)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = serving(tmp_path / "toy")
    yield made
    made.handler.backend.free()
    made.worker.close()


@pytest.fixture
def node(site: Site) -> Node:
    return Node(Turns(site.worker, read_request))


def wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"prompt": text, "stream": True, **more}


def test_streams_and_whole_answers_come_in_turns(node: Node) -> None:
    stream, whole, chat = node.add(prompt("abc")), node.add({"prompt": "defg"}), node.add({"messages": 5})
    described = node.add(b"", describe="True")
    described.item = described.item._replace(fields={}, types={})
    node.until(stream, whole, chat, described)
    assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
    assert stream.body.endswith(DONE)
    assert stream.body.count(b'"text":') >= 3
    assert json.loads(whole.body)["choices"][0]["text"] == "defg"
    assert whole.headers["x-tokens"] == "prompt=4;answer=5;finish=stop"
    assert (chat.status, chat.headers["content-type"]) == (422, "application/problem+json")
    assert json.loads(described.body)["model"] == "toy"
    refused = node.add({"messages": 5}, **{PROTOCOL_HEADER: OPENAI_CHAT})
    node.until(refused)
    assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "messages")
    assert not node.jobs


def test_a_stream_that_has_ended_before_its_first_turn_is_one_piece(node: Node, site: Site) -> None:
    site.handler.backend.hold()
    job = node.add(prompt("a"))
    node.turn()
    site.handler.backend.free()
    wait(lambda: site.worker.occupancy()[0] == 0)
    node.until(job)
    assert job.body.endswith(DONE)


def test_a_client_that_leaves_frees_its_place_with_the_next_token(node: Node, site: Site) -> None:
    site.handler.backend.hold()
    jobs = [node.add(prompt(text)) for text in ("abcdefgh", "ijklmnop", "qrstuvwx", "yzabcdef")]
    beyond = node.add(prompt("ghi"))
    node.until(beyond)
    assert (beyond.status, beyond.headers["retry-after"]) == (503, "1")
    jobs[0].is_open = False
    site.handler.backend.allow(2)
    while jobs[0].item.request_id in node.jobs:
        node.turn()
    node.turn()  # the worker learns of it, and frees the place between two steps
    site.handler.backend.allow(1)
    wait(lambda: site.worker.occupancy()[0] == 3)
    next_one = node.add(prompt("jkl"))
    site.handler.backend.free()
    node.until(next_one, *jobs[1:])
    assert (next_one.status, next_one.body[-len(DONE) :]) == (200, DONE)
    assert not jobs[0].has_ended
    assert all(job.body.endswith(DONE) for job in jobs[1:])


def test_a_turn_without_news_ends_soon_so_that_requests_can_join(node: Node, site: Site) -> None:
    site.handler.backend.hold()
    first = node.add(prompt("abc"))
    node.turn()
    node.turn()
    assert not first.status
    late = node.add(prompt("de"))
    node.turn()
    site.handler.backend.free()
    node.until(first, late)
    assert any(len(step) == 2 for step in site.handler.backend.steps), "both were in one step"


def test_a_worker_that_hangs_is_ended_and_one_that_idles_is_not(site: Site) -> None:
    ended: list[int] = []
    now = 0.0
    node = Node(Turns(site.worker, read_request, ended.append, lambda: now))
    limit = site.worker.config.response_timeout_s + SILENT_S
    node.until(node.add({"prompt": "abc"}))
    now += 2 * limit  # nothing was in hand
    site.handler.backend.hold()
    node.add({"prompt": "abc"})
    node.turn()
    now += limit - 1
    node.turn()
    assert not ended
    now += 2
    node.turn()
    assert ended == [1]
