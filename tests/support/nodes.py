"""A node that a test scripts, behind a real Envoy with rendered files: what the gateway makes of a node's answers."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.support.ports import free_ports
from tsctl.config.deployment import Budget, DeploymentSpec, GatewaySpec, RouteSpec
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.config.tracing import TracingSpec
from tsctl.gateway.envoy.process import start_envoy, stop, validate
from tsctl.gateway.envoy.render import listeners
from tsctl.gateway.envoy.render.clients import Client
from tsctl.gateway.envoy.render.health import ready
from tsctl.gateway.envoy.render.openai import tokens
from tsctl.gateway.envoy.render.overload import Bounds
from tsctl.gateway.envoy.render.routes import routes
from tsctl.gateway.envoy.render.upstreams import Endpoint, Probe, Upstream, cluster_name
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.publish import put_clusters
from tsctl.gateway.state import Gateway
from tsctl.gateway.traffic import only
from tsctl.host.files import make_folder, write_document

MODEL, VERSION, KEY = "digits", "1.0", "key-of-the-test"
PROBE = Probe(b'{"sample": 1}', "application/json")


@dataclass(frozen=True)
class Reply:
    """What a scripted node answers with."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    hangs_up: bool = False  # closes the connection without an answer
    parts: Iterable[bytes] | None = None  # in place of the body, each sent as it comes
    breaks: bool = False  # the connection ends before the end of the parts


@dataclass(frozen=True)
class Asked:
    """A request that came to a scripted node."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_check(self) -> bool:
        return self.method == "OPTIONS" or self.body == PROBE.body


def of_torchserve(status: int, kind: str, message: str) -> Reply:
    """An error as TorchServe's frontend writes it."""
    return Reply(status, json.dumps({"code": status, "type": kind, "message": message}, indent=2).encode() + b"\n")


class ScriptedNode:
    """Answers each request with what `script` returns for it, on a free port."""

    def __init__(self, name: str, script: Callable[[Asked], Reply], engine: str = "torchserve") -> None:
        self.name, self.script, self.engine = name, script, engine
        self.asked: list[Asked] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer()

            def do_OPTIONS(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                names = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, names, self.rfile.read(length))
                node.asked.append(asked)
                reply = node.script(asked)
                self.close_connection = reply.hangs_up or reply.status >= 400
                if reply.hangs_up:
                    return
                self.send_response_only(reply.status)
                whole, in_parts = ("content-length", str(len(reply.body))), ("transfer-encoding", "chunked")
                end = whole if reply.parts is None else in_parts
                for name, value in {**reply.headers, end[0]: end[1]}.items():
                    self.send_header(name, value)
                if self.close_connection:  # said, or the gateway would send its next request into the end of this one
                    self.send_header("connection", "close")
                self.end_headers()
                if reply.parts is None:
                    self.wfile.write(reply.body)
                    return
                for part in reply.parts:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                if reply.breaks:
                    self.close_connection = True
                else:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """A client that left is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self._server.server_address[1], "token", engine=self.engine)

    @property
    def requests(self) -> list[Asked]:
        """What came from clients."""
        return [asked for asked in list(self.asked) if not asked.is_check]

    @property
    def checks(self) -> list[Asked]:
        """The health checks that came."""
        return [asked for asked in list(self.asked) if asked.is_check]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Fronted:
    """An Envoy before scripted nodes."""

    gateway: Gateway
    base: str

    def ask(
        self, body: bytes = b'{"x": 1}', /, path: str = f"/predictions/{MODEL}", **headers: str
    ) -> requests.Response:
        sent = {"content-type": "application/json", "x-api-key": KEY, **headers}
        return requests.post(self.base + path, data=body, headers=sent, timeout=30)

    def give_new_clusters(self, nodes: Sequence[ScriptedNode]) -> None:
        """Give Envoy a cluster of these nodes in this order; where that is a change, all nodes are others to it."""
        endpoints = tuple(node.endpoint for node in nodes)
        put_clusters(self.gateway, [Upstream(MODEL, VERSION, endpoints, PROBE)], [only(MODEL, VERSION)])

    def is_in_rotation(self, node: ScriptedNode) -> bool:
        """Whether the node may get requests."""
        hosts = self.gateway.admin.hosts()[cluster_name(MODEL, VERSION)]
        return any(host.is_healthy for host in hosts if host.address == node.endpoint.address)


@contextmanager
def fronted(
    folder: Path,
    nodes: Sequence[ScriptedNode],
    route: RouteSpec,
    probe: Probe | None = PROBE,
    waiting_bytes: int = 1 << 30,
    tracing: TracingSpec | None = None,
    is_stock: bool = False,
) -> Iterator[Fronted]:
    """A real Envoy before the nodes while the block runs; no supervisor, no TorchServe."""
    address, metrics = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    spec = GatewaySpec(address=address, metrics=metrics, budget=Budget(requests_per_s=100_000, burst=100_000))
    deployment = DeploymentSpec.model_validate(
        {
            "nodes": {node.name: TorchServeSpec().model_dump(mode="json") for node in nodes[:1]},
            "models": {MODEL: {"default": VERSION, "versions": {VERSION: {"workers": 1}}, "route": route.model_dump()}},
        }
    )
    files = GatewayFiles(folder / "gateway")
    gateway = Gateway(Project(folder), deployment, spec, files)
    for path in files.folders:
        make_folder(path)
    traffic = [only(MODEL, VERSION)]
    endpoints = tuple(node.endpoint for node in nodes)
    put_clusters(gateway, [Upstream(MODEL, VERSION, endpoints, probe, is_stock=is_stock)], traffic)
    write_document(files.routes, routes(spec, {MODEL: route}, traffic, [Client("test", (KEY,))]))
    write_document(files.ready, ready(traffic))
    write_document(files.tokens, tokens({}))
    write_document(files.bootstrap, listeners.bootstrap(spec, files, Bounds(1000, 1 << 30, waiting_bytes), tracing))
    validate(gateway)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Envoy outlives the object that started it, on purpose
        start_envoy(gateway)
    try:
        yield Fronted(gateway, address)
    finally:
        stop(gateway)
        for node in nodes:
            node.close()
