"""Envoy with a configuration of the benchmark's own: a plain pass-through, or the gateway's with something changed."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tsctl.errors import NodeError
from tsctl.gateway.envoy.messages import Json, address, http_filter
from tsctl.gateway.envoy.process import envoy_path, worker_threads
from tsctl.gateway.envoy.render.inside import connection_manager
from tsctl.host.ports import free_ports
from tsctl.host.process import end_child
from tsctl.host.wait import wait_until

START_S = 20.0
STOP_S = 10.0


def pass_through(node: str) -> Json:
    """One route and no filters, as the shortest of Envoy's own examples: every request goes to the node.

    Args:
        node: its address, such as http://127.0.0.1:8080.
    """
    parts = urlsplit(node)
    endpoint = {"endpoint": {"address": address(parts.hostname or "", parts.port or 80)}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "node"}}
    manager = connection_manager(
        "plain",
        http_filters=[http_filter("router", "router.v3.Router")],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    cluster = {
        "name": "node",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "node", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "clients", "filter_chains": [{"filters": [manager]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def fixed_answer(body: str) -> Json:
    """Every request gets this JSON, from Envoy itself: as cheap a node as there is."""
    answer = {"status": 200, "body": {"inline_string": body}}
    header = {"header": {"key": "content-type", "value": "application/json"}}
    route = {"match": {"prefix": "/"}, "direct_response": answer, "response_headers_to_add": [header]}
    manager = connection_manager(
        "fixed",
        http_filters=[http_filter("router", "router.v3.Router")],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    return {"static_resources": {"listeners": [{"name": "all", "filter_chains": [{"filters": [manager]}]}]}}


@contextmanager
def running_envoy(configuration: Json, folder: Path, name: str) -> Iterator[tuple[str, int]]:
    """Envoy's own address and its pid while the block runs.

    Args:
        configuration: whole; its first listener gets a free port, and so do all others that have one.
        folder: for its files.
        name: of its files.

    Raises:
        NodeError: it does not start, with the end of its log.
    """
    content: dict[str, Any] = json.loads(json.dumps(configuration))
    listeners = [one for one in content["static_resources"]["listeners"] if "internal_listener" not in one]
    ports = free_ports(len(listeners))
    for listener, port in zip(listeners, ports, strict=True):
        listener["address"] = address("127.0.0.1", port)
    content["admin"] = {"address": {"pipe": {"path": str(folder / f"{name}.sock")}}}
    path, log = folder / f"{name}.json", folder / f"{name}.log"
    path.touch(mode=0o600)  # it may hold keys
    path.write_text(json.dumps(content))
    command = [
        str(envoy_path()), "-c", str(path), "--disable-hot-restart", "-l", "error",
        "--concurrency", str(worker_threads()), "--file-flush-interval-msec", "250",
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_until(lambda: _answers(ports[0]) or process.poll() is not None, START_S)
        if process.poll() is not None or not _answers(ports[0]):
            raise NodeError(f"Envoy ({name}) does not start: {log.read_text()[-300:].strip()}")
        yield f"http://127.0.0.1:{ports[0]}", process.pid
    finally:
        end_child(process, STOP_S)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
