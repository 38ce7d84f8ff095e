"""Workers are timed by full batches of answers, whatever their engine wraps them in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tsctl.config.nodes import TritonSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.nodes.engines import open_node
from tsctl.nodes.node import Node, Unreachable
from tsctl.rollout.run.capacity_probe import BATCHES, batch_seconds


def test_a_node_that_is_gone_is_away_and_its_canary_no_worse_for_it() -> None:
    with pytest.raises(Unreachable, match="does not answer any more"):
        batch_seconds("http://127.0.0.1:9/predictions/digits/2.0", {}, [b"{}"], lambda reply: reply)


class Triton(BaseHTTPRequestHandler):
    """Answers a whole body with an envelope, and anything else as Triton does: it is no JSON of its protocol."""

    protocol_version = "HTTP/1.1"
    inside = b"200\ncontent-type: application/json\n\n{}"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        is_whole = self.headers["Inference-Header-Content-Length"] == "0"
        content = b'{"outputs":[]}' + self.inside if is_whole else b'{"error":"no inputs"}'
        self.send_response(200 if is_whole else 400)
        self.send_header("Content-Length", str(len(content)))
        if is_whole:
            self.send_header("Inference-Header-Content-Length", str(len(b'{"outputs":[]}')))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing is of interest."""


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node of Triton whose workers' answers are the parameter."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (Triton,), {"inside": request.param})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        spec = TritonSpec(engine="triton", address=f"http://127.0.0.1:{server.server_port}")
        yield open_node(Project(tmp_path), "tri", spec)
        server.shutdown()
        thread.join()


def timed(node: Node) -> list[float]:
    url = node.spec.url + node.path("digits", "1.0t")
    return batch_seconds(url, {"content-type": "application/json", **node.access()}, [b'{"x": 1}'] * 3, node.unwrap)


@pytest.mark.parametrize("node", [Triton.inside], indirect=True)
def test_a_node_of_triton_is_asked_and_read_as_triton_is(node: Node) -> None:
    assert len(timed(node)) == BATCHES


@pytest.mark.parametrize("node", [b"503\nretry-after: 1\n\nfull"], indirect=True)
def test_a_refusal_inside_an_envelope_is_no_answer(node: Node) -> None:
    with pytest.raises(NodeError, match="does not answer a full batch of 3: answered 503: full"):
        timed(node)
