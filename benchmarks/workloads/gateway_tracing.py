"""What traces cost: the gateway without them, and with them for no, one in a hundred and all requests, in turns.

The collector reads what it gets and keeps nothing; it runs in the benchmark's own process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Goal, Result, Turn, times
from benchmarks.harness.processes import children
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.envoy import running_envoy
from benchmarks.workloads.gateway_cost import MODEL, MOST, WARMING_S, fleet_of_one, server_us
from tsctl.config.tracing import TracingSpec
from tsctl.errors import NodeError
from tsctl.gateway.envoy.render.listeners import bootstrap, whole
from tsctl.gateway.envoy.render.overload import Bounds
from tsctl.gateway.files import read_document

#: Shares of the requests that are traced, by the name of the target; None: the gateway does not trace.
SHARES = {"without traces": None, "traced 0 %": 0.0, "traced 1 %": 0.01, "traced 100 %": 1.0}
OFF = next(iter(SHARES))
BOUNDS = Bounds(20_000, 1 << 30, 1 << 30)
OF_OFF = Goal(0.95)


def run(job: Job) -> Result:
    """The gateways in turns before the same node, whose worker sends spans of what they trace.

    Raises:
        TsctlError: wrk is missing, or something does not start.
    """
    require_wrk()
    with own_folder() as folder, _sink() as endpoint, ExitStack() as stack:
        tracing = TracingSpec(endpoint=endpoint)
        fleet, body = stack.enter_context(fleet_of_one(job, folder, {"endpoint": endpoint}))
        [node] = fleet.nodes
        files = fleet.gateway.files
        parts = [read_document(path) for path in (files.clusters, files.routes, files.ready)]
        if None in parts:
            raise NodeError("the gateway has not written its files")
        places: dict[str, tuple[Address, int]] = {}
        for number, (name, share) in enumerate(SHARES.items()):
            spec = None if share is None else tracing.model_copy(update={"share": share})
            content = whole(bootstrap(fleet.gateway.spec, files, BOUNDS, spec), *(part or {} for part in parts))
            base, pid = stack.enter_context(running_envoy(content, folder, f"traced-{number}"))
            places[name] = (Address(f"{base}/predictions/{MODEL}", fleet.address("").headers), pid)
        with job.progress.step("warming all"):
            for address, _ in places.values():
                run_wrk(address.url, write_script(folder, address.headers, [body]), MOST, WARMING_S // 2)
        turns: dict[str, list[Turn]] = {name: [] for name in places}
        for number in range(job.rounds):
            for name, (address, pid) in places.items():
                with job.progress.step(f"round {number + 1} of {job.rounds}: {name}") as step:
                    turns[name].append(_turn(address, body, pid, node.pid, job, folder))
                    step.done(f"{turns[name][-1].requests_s:,.0f} requests/s")
    figures = [times(f"{name}, requests/s of {OFF}", turns[name], turns[OFF], OF_OFF) for name in SHARES if name != OFF]
    figures += [
        Figure(f"{name}, added to Envoy's time a request", "us", _added(turns[name], turns[OFF]))
        for name in SHARES
        if name != OFF
    ]
    return Result("tracing", "the gateway and a uvicorn node with traces", {"connections": MOST}, turns, figures)


def _turn(address: Address, body: bytes, envoy: int, node: int | None, job: Job, folder: Path) -> Turn:
    def pids() -> dict[str, list[int]]:
        return {"server": [envoy], "workers": [node, *children(node)] if node is not None else []}

    return load(address, [body], MOST, job.seconds, folder, pids)


def _added(turns: list[Turn], others: list[Turn]) -> tuple[float, ...]:
    return tuple(server_us(turn) - server_us(other) for turn, other in zip(turns, others, strict=True))


class _Discarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if "content-length" in self.headers:
            self.rfile.read(int(self.headers["content-length"]))
        else:
            while length := int(self.rfile.readline(), 16):
                self.rfile.read(length + 2)
            self.rfile.readline()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Sink(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """An Envoy that ends in the middle of a post is no error here."""


@contextmanager
def _sink() -> Iterator[str]:
    """The address of a collector while the block runs."""
    server = _Sink(("127.0.0.1", 0), _Discarding)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
