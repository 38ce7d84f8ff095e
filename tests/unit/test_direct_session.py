"""Calls of nodes and of Prometheus go to the address itself, whatever proxies and passwords the environment names."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tsctl.config.nodes import TorchServeSpec
from tsctl.nodes.torchserve.client import ManagementClient
from tsctl.rollout.evidence.source import PrometheusServer

Received = list[tuple[str, str, str | None]]


class Recorder(BaseHTTPRequestHandler):
    """Answers everything, and records what was asked and with which password."""

    received: Received

    def do_GET(self) -> None:
        kind = "proxy" if self.path.startswith("http") else "direct"
        self.received.append((kind, self.path.partition("?")[0], self.headers["Authorization"]))
        body = json.dumps({"status": "success", "data": {"result": []}, "models": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing to standard error."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Received]]:
    """The address of a server that the environment names as the proxy of everything, and what it received."""
    received: Received = []
    with HTTPServer(("127.0.0.1", 0), type("Recording", (Recorder,), {"received": received})) as listening:
        address = f"http://127.0.0.1:{listening.server_port}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "netrc").write_text("default login somebody password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield address, received
        finally:
            listening.shutdown()
            thread.join()


def test_prometheus_is_asked_directly_and_without_a_password(server: tuple[str, Received]) -> None:
    address, received = server
    assert PrometheusServer(address).samples("toy") == []
    assert received == [("direct", "/api/v1/query", None)]


def test_a_node_is_asked_directly_and_without_a_password(server: tuple[str, Received]) -> None:
    address, received = server
    spec = TorchServeSpec(inference="http://127.0.0.1:1", management=address, metrics="http://127.0.0.1:2")
    assert ManagementClient(spec, None).states() == []
    assert received == [("direct", "/models", None)]
