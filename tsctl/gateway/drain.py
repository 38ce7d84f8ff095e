"""Takes a version on one node out of the gateway's rotation while its workers end.

TorchServe may drop, and never answer, a request that reaches a worker in the moment in which that worker is told to end
(its thread is interrupted while it collects a batch). Measured: one request lost in six scale-downs under load.

Invariant: a node is out of rotation only while another one can answer for the version, and for SPARE_S at most before
its workers end. If tsctl is killed meanwhile, the gateway's supervisor puts the node back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Admin, Host
from tsctl.gateway.envoy.render import cluster_name, endpoints_of, without_node
from tsctl.gateway.publish import TAKEN_S
from tsctl.gateway.state import Gateway, changing
from tsctl.host.files import read_document, write_document
from tsctl.host.progress import Note
from tsctl.host.wait import wait_until
from tsctl.nodes.torchserve.node import Node

#: A node is idle after so long without a request; Envoy's threads are a moment behind its main one.
QUIET_S = 0.5
#: Requests that take longer are left to the retry of an idempotent route, because the gateway is locked meanwhile.
SPARE_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True)
class _Rotation:
    """A node among the hosts of a cluster.

    Args:
        addresses: of the node in the cluster; empty where it is not in it.
    """

    admin: Admin
    cluster: str
    addresses: frozenset[str]

    def hosts(self) -> list[Host]:
        """The node itself."""
        return [host for host in self._all() if host.address in self.addresses]

    def has_node(self) -> bool:
        return any(host.is_healthy for host in self.hosts())

    def has_another(self) -> bool:
        return any(host.is_healthy and host.address not in self.addresses for host in self._all())

    def _all(self) -> list[Host]:
        return self.admin.hosts().get(self.cluster, [])


@contextmanager
def set_aside(gateway: Gateway, model: str, version: str, node: Node, note: Note) -> Iterator[None]:
    """The gateway sends the version no requests on this node while the block runs.

    Where the gateway does not run, does not know the node, or has no other node that can answer, nothing changes.

    Raises:
        GatewayError: Envoy did not take the node out, or did not put it back.
        ConflictError: another tsctl changes the gateway.
    """
    cluster = cluster_name(model, version)
    path = gateway.files.endpoints_of(cluster)
    with changing(gateway):
        before = read_document(path) if gateway.admin.is_live() else None
        addresses = frozenset(e.address for e in endpoints_of(before) if e.node == node.name) if before else frozenset()
        rotation = _Rotation(gateway.admin, cluster, addresses)
        if before is None or not addresses or not rotation.has_another():
            yield
            return
        try:
            write_document(path, without_node(before, node.name))
            note("out of rotation, finishing its requests")
            _require(lambda: not rotation.has_node(), f"{model} {version} out of rotation on {node.name}")
            _wait_idle(rotation)
            yield
        finally:
            write_document(path, before)
        _require(rotation.has_node, f"{model} {version} back in rotation on {node.name}")


def _wait_idle(rotation: _Rotation) -> None:
    """Wait until the node had no request for QUIET_S, or SPARE_S have passed."""
    quiet_since = time.monotonic()

    def is_idle() -> bool:
        nonlocal quiet_since
        if any(host.active for host in rotation.hosts()):
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= QUIET_S

    wait_until(is_idle, SPARE_S, POLL_S)


def _require(condition: Callable[[], bool], expected: str) -> None:
    if not wait_until(condition, TAKEN_S, POLL_S):
        raise GatewayError(f"the gateway did not have {expected} within {TAKEN_S:g} s", "See 'tsctl gateway status'.")
