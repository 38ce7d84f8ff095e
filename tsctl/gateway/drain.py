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
from dataclasses import replace

from tsctl.config.deployment import RouteSpec
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.render.upstreams import Upstream, cluster_name, stat_name
from tsctl.gateway.publish import put_clusters
from tsctl.gateway.shared.report import REPORT_S
from tsctl.gateway.state import Gateway, changing, traffic_in_force, upstreams_written
from tsctl.host.progress import Note
from tsctl.host.wait import wait_until
from tsctl.nodes.node import Node

#: A node counts as idle after so long without an active request; Envoy's threads are a moment behind its main one.
QUIET_S = 0.5
#: Requests that are active after so long are left to the retry of an idempotent route: the gateway is locked meanwhile.
SPARE_S = 5.0
#: Envoy may take so long, and the route's deadline on top, for which its first health check may wait in a full queue.
WARM_S = 30.0


@contextmanager
def drained(
    gateway: Gateway, model: str, version: str, node: Node, note: Note, is_for_good: bool = False
) -> Iterator[None]:
    """Keeps the node out of the version's rotation while the block runs.

    Where the gateway does not run, does not know the node, or has no other one that can answer, nothing is drained.

    Args:
        is_for_good: the node does not come back into rotation where the block succeeds, so another one must be able to
            answer for a version that has a route; Envoy may still have to find that out.

    Raises:
        GatewayError: Envoy did not take the node out of rotation, or did not put it back, or has no other one.
        ConflictError: another tsctl changes the gateway.
    """
    name = cluster_name(model, version)
    warm_s = WARM_S + gateway.route_specs.get(model, RouteSpec()).deadline_s
    sent_before = f"cluster.{stat_name(name)}.upstream_rq_active"  # to any node, and still in flight
    if gateway.shared is not None:
        gateway.shared.require_all(f"{model} {version} on node {node.name} cannot be drained")
    with changing(gateway):
        before = upstreams_written(gateway) if gateway.admin.is_live() else []
        traffic = traffic_in_force(gateway).values()
        draining = [_draining(one, node) if one.key == (model, version) else one for one in before]
        places = {place.address for one in draining for place in one.endpoints if place.is_draining}

        def hosts(of_node: bool) -> list[Host]:
            return [host for host in gateway.admin.hosts().get(name, ()) if (host.address in places) == of_node]

        def has_node() -> bool:
            return any(host.is_healthy for host in hosts(of_node=True))

        def has_others() -> bool:
            return any(host.is_healthy for host in hosts(of_node=False))

        if places and is_for_good and any(version in route.versions for route in traffic if route.model == model):
            _require(has_others, f"find {model} {version} on a node other than {node.name}", warm_s)
        if not places or not has_others():
            yield
            return
        try:
            put_clusters(gateway, draining, traffic)
            note("draining")
            _require(lambda: not has_node(), f"take {model} {version} on {node.name} out of rotation", warm_s)
            quiet_s = QUIET_S + (2 * REPORT_S if gateway.shared is not None else 0.0)
            _wait_idle(lambda: bool(gateway.admin.counter(sent_before)), quiet_s)
            yield
            if is_for_good:
                before = [_without(one, node) if one.key == (model, version) else one for one in before]
        finally:
            put_clusters(gateway, before, traffic)
        if is_for_good:
            return
        _require(has_node, f"put {model} {version} on {node.name} back into rotation", warm_s)


def _draining(upstream: Upstream, node: Node) -> Upstream:
    """The version with this node health-checked, and sent no requests."""
    places = (replace(place, is_draining=place.node == node.name) for place in upstream.endpoints)
    return replace(upstream, endpoints=tuple(places))


def _without(upstream: Upstream, node: Node) -> Upstream:
    """The version without this node."""
    return replace(upstream, endpoints=tuple(place for place in upstream.endpoints if place.node != node.name))


def _wait_idle(is_active: Callable[[], bool], quiet_s: float) -> None:
    """Waits until there was no active request for so long, for SPARE_S at most."""
    quiet_since = time.monotonic()

    def is_idle() -> bool:
        nonlocal quiet_since
        if is_active():
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= quiet_s

    wait_until(is_idle, SPARE_S)


def _require(condition: Callable[[], bool], action: str, within_s: float) -> None:
    if not wait_until(condition, within_s):
        raise GatewayError(f"the gateway did not {action} within {within_s:g} s", "See 'tsctl gateway status'.")
