"""Our server in front of a worker that generates text: real processes, real sockets, and a backend at a steady pace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests

from handlers.contract import (
    JSON,
    MODEL_VERSION_HEADER,
    OPENAI_COMPLETION,
    PROBLEM_MEDIA_TYPE,
    PROTOCOL_HEADER,
    RETRY_HEADER,
    TOKENS_COMMENT,
    TOKENS_HEADER,
)
from tests.support.paced import ENDLESS, write_paced
from tests.support.ports import free_ports
from tests.support.sites import until
from tests.support.streams import CHAT, COMPLETION, Stream, ask, completion, connect, texts
from tests.support.workers import write_archive_folder
from tsctl import CORE

START_S, PLACES = 60.0, 4
PLAIN = "/predictions/toy"
OVER = f"{TOKENS_COMMENT}prompt=2;answer=5;finish=length\n\ndata: [DONE]\n\n".encode()


@dataclass
class Server:
    """A running server of one archive."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        """The pid of its worker."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        pid: int
        [pid] = [process.pid for process in below if "handlers.adapters.asgi.child" in process.cmdline()]
        return pid

    @property
    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/ping", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def endless(self, count: int) -> list[Stream]:
        """Streams that have begun, and do not end by themselves."""
        streams = [ask(self.port, COMPLETION, completion("ab", ENDLESS)) for _ in range(count)]
        assert [stream.status for stream in streams] == [200] * count
        for stream in streams:
            next(stream.chunks())
        return streams

    def is_free(self) -> bool:
        """Whether all places are."""
        with closing(connect(self.port)) as stream:
            stream.send(COMPLETION, completion("ab", 1, stream=False, n=PLACES))
            status = stream.read_head()
            assert status in (200, 503), stream.body()
            return status == 200


VECTORS = """
import torch
from handlers.base import ServingHandler
from handlers.schema import Schema


class Vectors(ServingHandler):
    \"\"\"Each text's length, as a vector.\"\"\"

    class Request(Schema):
        text: list[str]

    def load(self):
        self.network = torch.nn.Identity()

    def preprocess(self, items):
        return [[[float(len(text)), 1.0] for text in item.text] for item in items]

    def inference(self, inputs):
        return inputs

    def postprocess(self, outputs):
        return [{"embeddings": vectors} for vectors in outputs]

    def count_tokens(self, texts):
        return sum(map(len, texts))
"""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server while it is ready; killed afterwards, where the test has not ended it."""
    [port] = free_ports(1)
    log = folder.parent / f"{folder.name}.log"
    command = [sys.executable, "-m", "handlers.adapters.asgi", "--port", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process:
        server = Server(port, process, log)
        try:
            until(lambda: server.is_ready or process.poll() is not None, START_S, "a worker that is ready")
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(write_paced(tmp_path_factory.mktemp("text") / "toy", places=PLACES)) as server:
        yield server


def test_a_stream_comes_in_chunks_and_the_connection_stays(server: Server) -> None:
    with closing(connect(server.port)) as stream:
        for path, more in ((COMPLETION, {}), (PLAIN, {"x-request-id": "mine"})):
            stream.send(path, completion("ab", 5), more)
            assert stream.read_head() == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-cache"
            assert stream.headers[MODEL_VERSION_HEADER] == "1.0"
            assert "content-length" not in stream.headers
            chunks = list(stream.chunks())
            assert len(chunks) == 5, "each token goes out when it comes"
            assert texts(b"".join(chunks)) == "ababa"
            assert chunks[-1].endswith(OVER)
        assert stream.headers["x-request-id"] == "mine"
        stream.send(CHAT, {"model": "toy:1.0", "messages": [{"role": "user", "content": "xy"}], "max_tokens": 3})
        assert stream.read_head() == 200
        assert stream.headers[TOKENS_HEADER] == "prompt=2;answer=3;finish=length"
        assert stream.json()["choices"][0]["message"]["content"] == "xyx"


def test_requests_on_one_connection_are_answered_in_their_order(server: Server) -> None:
    with closing(connect(server.port)) as stream:
        stream.send(COMPLETION, completion("ab", 5))
        stream.send(COMPLETION, completion("c", 1, stream=False))
        stream.send(COMPLETION, completion("de", 2))
        assert stream.read_head() == 200
        assert texts(stream.body()) == "ababa"
        assert stream.read_head() == 200
        assert stream.json()["choices"][0]["text"] == "c"
        assert stream.read_head() == 200
        assert texts(stream.body()) == "de"


def test_a_client_of_http_1_0_gets_the_bare_events_and_the_end(server: Server) -> None:
    with closing(ask(server.port, COMPLETION, completion("ab", 5), version="1.0")) as stream:
        assert stream.status == 200
        assert "transfer-encoding" not in stream.headers
        body = stream.body()
        assert texts(body) == "ababa"
        assert body.endswith(OVER)


def test_errors_have_the_form_of_the_api_that_was_asked(server: Server) -> None:
    many = ["ab"] * PLACES
    cases = [
        (COMPLETION, completion("ab", 1, model="nobody"), 404, "'nobody'; this path has toy, toy:1.0."),
        (COMPLETION, completion("ab", 1, model="toy:2.0"), 404, "'toy:2.0'"),
        (COMPLETION, {"prompt": "ab"}, 400, "model"),
        (COMPLETION, b"{", 400, "not JSON"),
        (COMPLETION, completion("x" * 1100, 1), 413, "1024 bytes"),
        (COMPLETION, completion("", 1), 400, "prompt"),
        (COMPLETION, completion("ab", 1, logit_bias={"1": 5}), 400, "logit_bias"),
        (COMPLETION, completion("ab", 1) | {"prompt": [*many, "ab"]}, 400, "prompt asks for 5 answers in all"),
        (COMPLETION, completion("ab", 1, n=PLACES + 1), 400, "n asks for 5 answers in all"),
        (COMPLETION, completion("ab", 1) | {"prompt": [1, 2]}, 400, "token numbers are not taken"),
        ("/v1/embeddings", {"model": "toy", "input": "ab"}, 400, "'toy' does not answer this path"),
        ("/v1/nothing", {}, 404, "/docs"),
    ]  # fmt: skip
    for path, body, status, words in cases:
        with closing(ask(server.port, path, body)) as stream:
            error = stream.json()["error"]
            assert (stream.status, stream.headers["content-type"]) == (status, JSON), path
            assert words in error["message"]
            assert error["type"] == ("server_error" if status > 499 else "invalid_request_error")
    wrong = requests.get(server.url + CHAT, timeout=20)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method-not-allowed")
    with closing(ask(server.port, PLAIN, {"prompt": ""})) as stream:
        assert stream.headers["content-type"] == PROBLEM_MEDIA_TYPE
        assert stream.json()["status"] == stream.status == 422
    with closing(ask(server.port, PLAIN, completion("x" * 1100, 1), {PROTOCOL_HEADER: OPENAI_COMPLETION})) as stream:
        assert (stream.status, stream.json()["error"]["code"]) == (413, "payload-too-large")


def test_models_are_listed_and_documented(server: Server) -> None:
    listed = requests.get(f"{server.url}/v1/models", timeout=20).json()
    assert [model["id"] for model in listed["data"]] == ["toy", "toy:1.0"]
    assert listed["object"] == "list"
    assert requests.get(f"{server.url}/v1/models/toy:1.0", timeout=20).json() == listed["data"][1]
    missing = requests.get(f"{server.url}/v1/models/other", timeout=20)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not-found")
    paths = requests.get(f"{server.url}/openapi.json", timeout=20).json()["paths"]
    assert {PLAIN, CHAT, COMPLETION, "/v1/models"} <= paths.keys()
    assert "/v1/embeddings" not in paths
    tensors = requests.get(f"{server.url}/v2/models/toy", timeout=20)
    assert (tensors.status_code, tensors.headers["content-type"]) == (501, PROBLEM_MEDIA_TYPE)
    infer = requests.post(f"{server.url}/v2/models/toy/infer", json={"inputs": []}, timeout=20)
    assert (infer.status_code, infer.headers["content-type"]) == (501, PROBLEM_MEDIA_TYPE)


def test_the_official_client_gets_answers_streams_and_errors(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        assert [model.id for model in client.models.list()] == ["toy", "toy:1.0"]
        messages: Any = [{"role": "user", "content": "xy"}]
        chat = client.chat.completions.create(model="toy", messages=messages, max_tokens=3, logprobs=True)
        assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("xyx", "length")
        assert chat.usage is not None
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (2, 3)
        streamed = client.chat.completions.create(
            model="toy:1.0", messages=messages, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(streamed)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "xyxy"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 6
        text = client.completions.create(model="toy", prompt=["ab", "c"], max_tokens=2, n=2)
        assert [choice.text for choice in text.choices] == ["ab", "ab", "cc", "cc"]
        with pytest.raises(openai.NotFoundError, match="There is no model 'other'"):
            client.completions.create(model="other", prompt="ab")
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.completions.create(model="toy", prompt="ab", temperature=3)
        with pytest.raises(openai.BadRequestError, match="asks for 5 answers in all") as refused:
            client.completions.create(model="toy", prompt="ab", n=PLACES + 1)
        assert refused.value.param == "n"


def test_beyond_the_places_a_request_is_refused_and_a_client_that_hangs_up_frees_its_own(server: Server) -> None:
    until(server.is_free, START_S, "free places")
    streams = server.endless(PLACES)
    for path in (COMPLETION, PLAIN):
        with closing(ask(server.port, path, completion("ab", 1))) as refused:
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers[RETRY_HEADER] == "refused"
            document = refused.json()
            assert "retry later" in (document["error"]["message"] if path == COMPLETION else document["detail"])
    for stream in streams[1:]:
        next(stream.chunks())  # nobody's stream was broken
        stream.close()
    streams[0].connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends by a reset
    streams[0].close()
    until(server.is_free, START_S, "free places after all clients left")
    with closing(connect(server.port)) as waiting:  # a client whose answer has not begun leaves as well
        waiting.send(COMPLETION, completion("ab", ENDLESS, stream=False, n=PLACES))
        until(lambda: not server.is_free(), START_S, "no free place")
    until(server.is_free, START_S, "free places after a client left that had got nothing")


def test_a_client_that_does_not_read_is_left_and_holds_up_nobody(server: Server) -> None:
    until(server.is_free, START_S, "free places")
    with closing(connect(server.port, receive_bytes=4096)) as slow:
        slow.send(COMPLETION, completion("wide", ENDLESS, n=PLACES - 1), {"x-request-id": "of-the-slow-one"})
        with closing(ask(server.port, COMPLETION, completion("ab", ENDLESS))) as quick:
            chunks = quick.chunks()
            until(lambda: next(chunks) and b"of-the-slow-one" in server.log.read_bytes(), START_S, "the log's line")
    assert b"reads too slowly" in server.log.read_bytes()
    until(server.is_free, START_S, "free places")


def test_those_that_a_killed_worker_had_in_hand_are_told(server: Server) -> None:
    until(server.is_free, START_S, "free places")
    [stream] = server.endless(1)
    wholes = [connect(server.port) for _ in range(2)]
    for whole, path in zip(wholes, (COMPLETION, PLAIN), strict=True):
        whole.send(path, completion("ab", ENDLESS, stream=False))
    time.sleep(0.2)  # so that the worker has them; one that comes later is refused, which is asserted below too
    os.kill(server.worker, signal.SIGKILL)
    events = b"".join(stream.chunks())
    assert b"data: [DONE]" not in events
    tail = events[events.index(b"event: error") :].decode().split("\n")
    assert json.loads(tail[1].removeprefix("data: "))["error"]["code"] == "worker-failed"
    assert tail[3] == f"{TOKENS_COMMENT}prompt=0;answer=0;finish=error"
    for whole, path in zip(wholes, (COMPLETION, PLAIN), strict=True):
        assert whole.read_head() in (500, 503)
        document = whole.json()
        assert ("error" in document) if path == COMPLETION else (document["model"] == "toy")
        whole.close()
    stream.send(COMPLETION, completion("ab", 1))  # the connection outlives its worker
    assert stream.read_head() in (200, 503)
    stream.close()
    until(lambda: server.is_ready and server.is_free(), START_S, "another worker")


def test_a_signal_lets_streams_end_and_a_second_one_tells_them(tmp_path: Path) -> None:
    with serving(write_paced(tmp_path / "toy", places=PLACES)) as server:
        [endless] = server.endless(1)
        with closing(ask(server.port, COMPLETION, completion("ab", 200))) as stream:
            next(stream.chunks())
            server.process.send_signal(signal.SIGTERM)
            rest = b"".join(stream.chunks())
            assert rest.endswith(b"answer=200;finish=length\n\ndata: [DONE]\n\n")
            assert stream.is_at_end(), "the connection of an ended server"
        with pytest.raises(ConnectionRefusedError):
            connect(server.port)
        server.process.send_signal(signal.SIGINT)
        events = b"".join(endless.chunks())
        assert b"event: error" in events
        assert b"finish=error" in events
        assert endless.is_at_end()
        endless.close()
        assert server.process.wait(START_S) == 0


def test_a_model_of_embeddings_answers_its_path_and_no_other(tmp_path: Path) -> None:
    golden = {"one.json": {"embeddings": [[3.0, 1.0]]}}
    folder = write_archive_folder(
        tmp_path / "toy", {"one.json": b'{"text": ["one"]}'}, golden, serving={"handler": "vectors"}
    )
    (folder / "vectors.py").write_text(VECTORS)
    shutil.copytree(CORE, folder / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    with serving(folder) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        answer = client.embeddings.create(model="toy:1.0", input=["two", "three"], encoding_format="float")
        assert [entry.embedding for entry in answer.data] == [[3.0, 1.0], [5.0, 1.0]]
        assert answer.usage.prompt_tokens == 8
        with pytest.raises(openai.BadRequestError, match="does not answer this path"):
            client.completions.create(model="toy", prompt="x")
        with pytest.raises(openai.NotFoundError, match="this path has toy"):
            client.embeddings.create(model="nobody", input="x")
        with pytest.raises(openai.BadRequestError, match="token numbers"):
            client.embeddings.create(model="toy", input=[1, 2])
        paths = requests.get(f"{server.url}/openapi.json", timeout=10).json()["paths"]
        assert "/v1/embeddings" in paths
        assert "/v1/completions" not in paths
