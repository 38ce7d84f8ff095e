"""Drains a version on one node: the gateway sends it no requests while its workers end.

TorchServe may lose a request that reaches a worker at the moment in which that worker ends (its thread is interrupted
while it collects a batch). Measured: one request lost in six scale-downs under load.

Invariant: a node is drained only while another one can answer for the version, and its workers end after SPARE_S at
most. If tsctl is killed meanwhile, the gateway's supervisor puts the node back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.render.upstreams import cluster_name, endpoints_of, with_draining
from tsctl.gateway.files import read_document
from tsctl.gateway.publish import TAKEN_S
from tsctl.gateway.state import Gateway, changing
from tsctl.host.files import write_document
from tsctl.host.progress import Note
from tsctl.host.wait import wait_until
from tsctl.nodes.torchserve.node import Node

#: A node counts as idle after so long without an active request; Envoy's threads are a moment behind its main one.
QUIET_S = 0.5
#: Requests that are active after so long are left to the retry of an idempotent route: the gateway is locked meanwhile.
SPARE_S = 5.0


@contextmanager
def drained(gateway: Gateway, model: str, version: str, node: Node, note: Note) -> Iterator[None]:
    """Keeps the node out of the version's rotation while the block runs.

    Where the gateway does not run, does not know the node, or has no other one that can answer, nothing is drained.

    Raises:
        GatewayError: Envoy did not take the node out of rotation, or did not put it back.
        ConflictError: another tsctl changes the gateway.
    """
    name = cluster_name(model, version)
    path = gateway.files.endpoints_of(name)
    with changing(gateway):
        before = read_document(path) if gateway.admin.is_live() else None
        addresses = {endpoint.address for endpoint in endpoints_of(before) if endpoint.node == node.name}

        def hosts(of_node: bool) -> list[Host]:
            return [host for host in gateway.admin.hosts().get(name, ()) if (host.address in addresses) == of_node]

        def has_node() -> bool:
            return any(host.is_healthy for host in hosts(of_node=True))

        if before is None or not addresses or not any(host.is_healthy for host in hosts(of_node=False)):
            yield
            return
        try:
            write_document(path, with_draining(before, node.name))
            note("draining")
            _require(lambda: not has_node(), f"take {model} {version} on {node.name} out of rotation")
            _wait_idle(lambda: any(host.active for host in hosts(of_node=True)))
            yield
        finally:
            write_document(path, before)
        _require(has_node, f"put {model} {version} on {node.name} back into rotation")


def _wait_idle(is_active: Callable[[], bool]) -> None:
    """Waits until there was no active request for QUIET_S, for SPARE_S at most."""
    quiet_since = time.monotonic()

    def is_idle() -> bool:
        nonlocal quiet_since
        if is_active():
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= QUIET_S

    wait_until(is_idle, SPARE_S)


def _require(condition: Callable[[], bool], action: str) -> None:
    if not wait_until(condition, TAKEN_S):
        raise GatewayError(f"the gateway did not {action} within {TAKEN_S:g} s", "See 'tsctl gateway status'.")
