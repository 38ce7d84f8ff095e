"""Drains a version on one node: the gateway sends it nothing while its workers end.

TorchServe may lose a request that reaches a worker at the moment in which that worker ends (its thread is interrupted
while it collects a batch). Measured: one request lost in six scale-downs under load.

Invariant: a node is drained only while another one can answer for the version, and its workers end after SPARE_S at
most. If tsctl is killed meanwhile, the gateway's supervisor puts the node back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tsctl.errors import GatewayError
from tsctl.gateway.discover import known_endpoints
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.messages import document, metadata_of
from tsctl.gateway.envoy.render import cluster_name
from tsctl.gateway.files import read_document
from tsctl.gateway.publish import TAKEN_S
from tsctl.gateway.state import Gateway, changing
from tsctl.host.files import write_document
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.node import Node

#: A node counts as idle after so long without an active request; Envoy's threads are a moment behind its main one.
QUIET_S = 0.5
#: Requests that are active after so long are left to the retry of an idempotent route: the gateway is locked meanwhile.
SPARE_S = 5.0
POLL_S = 0.05


@contextmanager
def drained(gateway: Gateway, model: str, version: str, node: Node, note: Note) -> Iterator[None]:
    """Keeps the node out of the version's rotation while the block runs.

    Where the gateway does not run, or no other node can answer, nothing is drained.

    Raises:
        GatewayError: Envoy did not take the node out of rotation, or did not put it back.
        ConflictError: another tsctl changes the gateway.
    """
    name = cluster_name(model, version)
    path = gateway.places.endpoints / f"{name}.json"
    with changing(gateway):
        before = read_document(path) if gateway.admin.is_live() else None
        if before is None or not _has_another(gateway, name, node):
            yield
            return
        try:
            write_document(path, with_draining(before, node.name))
            note("draining")
            _until(
                lambda: not _is_in_rotation(gateway, name, node),
                f"take {model} {version} on {node.name} out of rotation",
            )
            _wait_idle(gateway, name, node)
            yield
        finally:
            write_document(path, before)
        _until(lambda: _is_in_rotation(gateway, name, node), f"put {model} {version} on {node.name} back into rotation")


def with_draining(endpoints: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The document of a cluster's endpoints with this node draining: health-checked, and sent no request. Pure."""
    [assignment] = endpoints["resources"]
    groups = [
        {
            **group,
            "lb_endpoints": [
                {**endpoint, "health_status": "DRAINING"} if metadata_of(endpoint)["node"] == node else endpoint
                for endpoint in group["lb_endpoints"]
            ],
        }
        for group in assignment["endpoints"]
    ]
    return document([{**assignment, "endpoints": groups}])


def _hosts(gateway: Gateway, name: str, node: Node) -> tuple[list[Host], list[Host]]:
    """The node in the cluster, and the others."""
    written = read_document(gateway.places.endpoints / f"{name}.json")
    endpoints = known_endpoints(written) if written else ()
    addresses = {f"{endpoint.host}:{endpoint.port}" for endpoint in endpoints if endpoint.node == node.name}
    hosts = gateway.admin.hosts().get(name, [])
    return [host for host in hosts if host.address in addresses], [
        host for host in hosts if host.address not in addresses
    ]


def _has_another(gateway: Gateway, name: str, node: Node) -> bool:
    return any(host.is_healthy for host in _hosts(gateway, name, node)[1])


def _is_in_rotation(gateway: Gateway, name: str, node: Node) -> bool:
    return any(host.is_healthy for host in _hosts(gateway, name, node)[0])


def _wait_idle(gateway: Gateway, name: str, node: Node) -> None:
    """Waits until the node had no active request for QUIET_S, for SPARE_S at most."""
    end = time.monotonic() + SPARE_S
    quiet_since = time.monotonic()
    while (now := time.monotonic()) < end and now - quiet_since < QUIET_S:
        if any(host.active for host in _hosts(gateway, name, node)[0]):
            quiet_since = now
        time.sleep(POLL_S)


def _until(holds: Callable[[], bool], action: str) -> None:
    end = time.monotonic() + TAKEN_S
    while not holds():
        if time.monotonic() > end:
            raise GatewayError(f"the gateway did not {action} within {TAKEN_S:g} s", "See 'tsctl gateway status'.")
        time.sleep(POLL_S)
