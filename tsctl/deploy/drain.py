"""Takes a version on one node out of the gateway's rotation while its workers end.

TorchServe may drop, and never answer, a request that reaches a worker in the moment in which that worker is told to end
(its thread is interrupted while it collects a batch). Measured: one request lost in six scale-downs under load.

Invariant: a node is set aside only while another one can answer for the version, and for SPARE_S at most before its
workers end. Killed meanwhile, the gateway's keeper puts the node back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.messages import NAMESPACE, document
from tsctl.gateway.envoy.render import cluster_name
from tsctl.gateway.files import read_document
from tsctl.gateway.publish import TAKEN_S
from tsctl.gateway.state import Gateway, changing
from tsctl.host.files import write_document
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.node import Node

#: How long a node has had nothing in hand before it counts as idle; Envoy's threads are a moment behind its main one.
QUIET_S = 0.5
#: What is in hand after so long is left to the retry of an idempotent route, because the gateway is locked meanwhile.
SPARE_S = 5.0
POLL_S = 0.05


@contextmanager
def set_aside(gateway: Gateway, model: str, version: str, node: Node, note: Note) -> Iterator[None]:
    """The gateway sends the version nothing on this node while the block runs.

    Where the gateway does not run, or no other node can answer, nothing is set aside.

    Raises:
        GatewayError: Envoy did not take it, or did not take it back.
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
            write_document(path, without(before, node.name))
            note("set aside, waiting for what it has in hand")
            _until(
                lambda: not _is_in_rotation(gateway, name, node), f"{model} {version} out of rotation on {node.name}"
            )
            _wait_idle(gateway, name, node)
            yield
        finally:
            write_document(path, before)
        _until(lambda: _is_in_rotation(gateway, name, node), f"{model} {version} back in rotation on {node.name}")


def without(endpoints: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The document of a cluster's endpoints with this node draining: known and checked, and sent nothing. Pure."""
    [assignment] = endpoints["resources"]
    groups = [
        {**group, "lb_endpoints": [_draining(one) if _node(one) == node else one for one in group["lb_endpoints"]]}
        for group in assignment["endpoints"]
    ]
    return document([{**assignment, "endpoints": groups}])


def _draining(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {**endpoint, "health_status": "DRAINING"}


def _node(endpoint: Mapping[str, Any]) -> str:
    return str(endpoint["metadata"]["filter_metadata"][NAMESPACE]["node"])


def _hosts(gateway: Gateway, name: str, node: Node) -> tuple[list[Host], list[Host]]:
    """The node in the cluster, and the others."""
    written = read_document(gateway.places.endpoints / f"{name}.json") or {"resources": [{"endpoints": []}]}
    own = {
        f"{place['address']}:{place['port_value']}"
        for group in written["resources"][0]["endpoints"]
        for one in group["lb_endpoints"]
        if _node(one) == node.name
        for place in [one["endpoint"]["address"]["socket_address"]]
    }
    found = gateway.admin.hosts().get(name, [])
    return [one for one in found if one.address in own], [one for one in found if one.address not in own]


def _has_another(gateway: Gateway, name: str, node: Node) -> bool:
    return any(one.is_healthy for one in _hosts(gateway, name, node)[1])


def _is_in_rotation(gateway: Gateway, name: str, node: Node) -> bool:
    return any(one.is_healthy for one in _hosts(gateway, name, node)[0])


def _wait_idle(gateway: Gateway, name: str, node: Node) -> None:
    """The node had nothing in hand for QUIET_S, or SPARE_S have passed."""
    end = time.monotonic() + SPARE_S
    quiet_since = time.monotonic()
    while (now := time.monotonic()) < end and now - quiet_since < QUIET_S:
        if any(one.active for one in _hosts(gateway, name, node)[0]):
            quiet_since = now
        time.sleep(POLL_S)


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TAKEN_S
    while not holds():
        if time.monotonic() > end:
            raise GatewayError(f"the gateway did not have {what} within {TAKEN_S:g} s", "See 'tsctl gateway status'.")
        time.sleep(POLL_S)
