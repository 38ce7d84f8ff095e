"""Streams through a real node of TorchServe, of a model that writes at a steady pace: who gets what, who is told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from handlers.contract import (
    JSON,
    MODEL_VERSION_HEADER,
    OPENAI_COMPLETION,
    PROBLEM_MEDIA_TYPE,
    PROTOCOL_HEADER,
    TOKENS_COMMENT,
    TOKENS_HEADER,
)
from tests.support.paced import ENDLESS, write_archive
from tests.support.sites import Site, make_site, processes_of, until
from tests.support.streams import Stream, ask, completion, connect, texts

PLACES = 4
START_S = 60.0
OVER = f"{TOKENS_COMMENT}prompt=2;answer=5;finish=length\n\ndata: [DONE]\n\n".encode()
PATH = "/predictions/toy/1.0"


class Node:
    """A node of TorchServe that serves the model."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.port = int(urlsplit(site.inference).port or 0)

    def ask(self, body: Any, **headers: str) -> Stream:
        return ask(self.port, PATH, body, {**self.site.headers(), **headers})

    def endless(self, count: int) -> list[Stream]:
        """Streams that have begun, and do not end by themselves."""
        streams = [self.ask(completion("ab", ENDLESS)) for _ in range(count)]
        assert [stream.status for stream in streams] == [200] * count
        for stream in streams:
            next(stream.chunks())
        return streams

    def is_free(self) -> bool:
        """Whether all places are."""
        with closing(self.ask(completion("ab", 1, stream=False, n=PLACES))) as stream:
            assert stream.status in (200, 503), stream.body()
            return stream.status == 200


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    site = make_site(tmp_path_factory.mktemp("text") / "site")
    write_archive(site.root, places=PLACES)
    site.deploy({"toy": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}})
    try:
        site.run("up")
        yield Node(site)
    finally:
        site.run("down", status=None)
    assert processes_of(site.root) == [], "processes are left behind"


def test_streams_answers_and_errors_pass_torchserve(node: Node) -> None:
    with closing(node.ask(completion("ab", 5))) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert stream.headers[MODEL_VERSION_HEADER] == "1.0"
        chunks = list(stream.chunks())
        assert len(chunks) >= 3, "tokens go out when they come"
        assert texts(b"".join(chunks)) == "ababa"
        assert b"".join(chunks).endswith(OVER)
        stream.send(PATH, completion("c", 1, stream=False), node.site.headers())  # on the same connection
        assert stream.read_head() == 200
        assert stream.headers[TOKENS_HEADER] == "prompt=1;answer=1;finish=length"
        assert stream.json()["choices"][0]["text"] == "c"
    with closing(node.ask({"prompt": ""})) as refused:
        assert (refused.status, refused.headers["content-type"]) == (422, PROBLEM_MEDIA_TYPE)
        assert refused.json()["model"] == "toy"
    with closing(node.ask({"prompt": ""}, **{PROTOCOL_HEADER: OPENAI_COMPLETION})) as refused:
        assert (refused.status, refused.headers["content-type"]) == (400, JSON)
        assert refused.json()["error"]["param"] == "prompt"


def test_beyond_the_places_a_request_is_refused_and_a_client_that_hangs_up_frees_its_own(node: Node) -> None:
    until(node.is_free, START_S, "free places")
    streams = node.endless(PLACES)
    with closing(node.ask(completion("ab", 1))) as refused:
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
    for stream in streams:
        next(stream.chunks())  # nobody's stream was broken
        stream.close()
    until(node.is_free, START_S, "free places after all clients left")


def test_those_that_a_killed_worker_had_in_hand_are_told_and_another_one_comes(node: Node) -> None:
    until(node.is_free, START_S, "free places")
    [stream] = node.endless(1)
    with closing(connect(node.port)) as whole:
        whole.send(PATH, completion("ab", ENDLESS, stream=False, n=PLACES - 1), node.site.headers())
        until(lambda: not node.is_free(), START_S, "the request in the worker")
        [worker] = node.site.workers("toy", "1.0")
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionError):  # TorchServe has no other way to say it
            b"".join(stream.chunks())
        assert whole.read_head() in (500, 507)  # TorchServe says 507 where it saw the signal
        assert json.loads(whole.body())["message"] == "Worker died."
    stream.close()
    until(lambda: worker not in (now := node.site.workers("toy", "1.0")) and now, START_S, "another worker")
    with closing(node.ask(completion("ab", 5))) as again:
        assert texts(again.body()) == "ababa"
