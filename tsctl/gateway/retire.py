"""Takes a version out of service: off its route, no requests in flight, then off the nodes.

Invariant: a version is unregistered only after no route named it and it had no request for QUIET_S.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tsctl.config.weights import percent
from tsctl.errors import GatewayError
from tsctl.gateway.change import require_healthy
from tsctl.gateway.envoy.render.clusters import DRAINING
from tsctl.gateway.envoy.render.upstreams import cluster_name, stat_name
from tsctl.gateway.publish import put_routes
from tsctl.gateway.shared.report import REPORT_S
from tsctl.gateway.state import Gateway, changing, traffic_in_force
from tsctl.gateway.sync import sync_locked
from tsctl.gateway.traffic import Traffic
from tsctl.host.progress import Note
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe_version
from tsctl.nodes.observed import ObservedVersion

#: Envoy's threads take a new route a moment after its main thread says that it is in force.
QUIET_S = 1.0
POLL_S = 0.1


@dataclass(frozen=True)
class Retired:
    """The result on each node where the version was registered or may still be."""

    gone: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]  # node and reason; the version may still be there


def retire(gateway: Gateway, model: str, version: str, timeout_s: float, note: Note) -> Retired:
    """The version has no route, had no requests when it left, and is registered on no node that answers.

    Its weight goes to the stable version. It is safe to run again after any failure.

    Args:
        timeout_s: for the requests in flight, and afterwards once more for each node.

    Raises:
        GatewayError: it is the stable version, stable cannot take its requests, or it was still in use at the deadline;
            it stays registered then.
        ConflictError: another tsctl changes the gateway.
    """
    if gateway.shared is not None:
        gateway.shared.require_all(f"{model} {version} cannot be retired")
    note("taking it off the route")
    with changing(gateway):
        traffic = traffic_in_force(gateway)
        if model in traffic and version in traffic[model].versions:
            has_weight = bool(traffic[model].weights.get(version))
            traffic[model] = route_without(traffic[model], version)
            if has_weight and gateway.admin.is_live():  # its requests must reach somebody
                require_healthy(gateway, model, [traffic[model].stable])
            put_routes(gateway, traffic.values())
    nodes = gateway.nodes()
    _wait_unused(gateway, nodes, model, version, timeout_s, note)
    with changing(gateway):
        route = traffic_in_force(gateway).get(model)
        if route is not None and version in route.versions:
            raise GatewayError(f"{model} {version} was put back on its route meanwhile, and stays registered")
        note("unregistering it")
        retired = _unregister(nodes, model, version, route.stable if route is not None else None)
        sync_locked(gateway)
    return retired


def require_no_weight(gateway: Gateway, model: str, version: str) -> None:
    """Raises GatewayError where the gateway runs and sends the version requests by weight."""
    route = traffic_in_force(gateway).get(model) if gateway.admin.is_live() else None
    weight = route.weights.get(version, 0) if route is not None else 0
    if weight:
        raise GatewayError(
            f"{model} {version} has {percent(weight)} of the requests on its route",
            f"Drain it first: tsctl models retire {model} {version}. With --force it is unregistered at once.",
        )


def require_workers(gateway: Gateway, model: str, version: str, workers: int, nodes: Collection[str]) -> None:
    """A version with weight keeps a READY worker on some node, even if the workers that end are the READY ones.

    Args:
        workers: that it will have on each of the nodes.

    Raises:
        GatewayError: the gateway runs, and the version might have none left.
    """
    route = traffic_in_force(gateway).get(model) if gateway.admin.is_live() else None
    weight = route.weights.get(version, 0) if route is not None else 0
    if not weight:
        return
    observed = observe_version(gateway.nodes(), model, version)
    if not is_answering_after(observed, workers, nodes):
        raise GatewayError(
            f"{model} {version} has {percent(weight)} of the requests on its route, and may have no READY worker left",
            f"Give another version its requests first: tsctl weights set {model} VERSION=100%. With --force it is"
            " scaled at once.",
        )


def is_answering_after(observed: Mapping[str, ObservedVersion], workers: int, nodes: Collection[str]) -> bool:
    """Whether a READY worker is left once each of the nodes has this many workers; True where none is READY now. Pure.

    Args:
        observed: the version on each node that has it.
    """
    ready = {name: state.ready for name, state in observed.items() if state.ready}
    left = [n - max(0, observed[name].workers - workers) if name in nodes else n for name, n in ready.items()]
    return not ready or any(n > 0 for n in left)


def route_without(traffic: Traffic, version: str) -> Traffic:
    """The route without the version, whose weight goes to stable; raises GatewayError where it is stable itself."""
    if version == traffic.stable:
        raise GatewayError(
            f"{traffic.model} {version} is stable, with {percent(traffic.weights[version])} of the requests",
            f"Give another version 100% first: tsctl weights set {traffic.model} VERSION=100%",
        )
    weight = traffic.weights.get(version, 0)
    if weight:
        rest = {**traffic.weights, version: 0, traffic.stable: traffic.weights[traffic.stable] + weight}
        traffic = traffic.weighted(rest)
    return traffic.without(version)


def _wait_unused(
    gateway: Gateway, nodes: Sequence[Node], model: str, version: str, timeout_s: float, note: Note
) -> None:
    end, quiet_s = time.monotonic() + timeout_s, QUIET_S + (2 * REPORT_S if gateway.shared is not None else 0.0)
    quiet_since, last_total = time.monotonic(), -1
    while True:
        total, active = _requests(gateway, model, version)
        # the queue of a node that does not answer could not be served anyway
        queued = sum(state.queue for state in observe_version(nodes, model, version).values())
        now = time.monotonic()
        if total != last_total or active or queued:
            quiet_since, last_total = now, total
        elif now - quiet_since >= quiet_s:
            return
        if now > end:
            raise GatewayError(
                f"{model} {version} is still in use after {timeout_s:g} s: {active} in flight from the gateway,"
                f" {queued} in the nodes' queues",
                "It has no route any more and stays registered; run this again.",
            )
        note(f"{active} in flight, {queued} queued" if active or queued else "nothing in flight")
        time.sleep(POLL_S)


def _requests(gateway: Gateway, model: str, version: str) -> tuple[int, int]:
    """The number of requests that the gateway ever sent to the version, and of those in flight."""
    if not gateway.admin.is_live():
        return 0, 0
    name = re.escape(stat_name(cluster_name(model, version)))
    names = rf"^cluster\.{name}(~shadow|{DRAINING})?\.upstream_rq_(total|active|pending_active)$"
    counters = gateway.admin.counters(names)
    total = sum(value for name, value in counters.items() if name.endswith("_total"))
    return total, sum(counters.values()) - total


def _unregister(nodes: Sequence[Node], model: str, version: str, stable: str | None) -> Retired:
    def act(node: Node, note: Note) -> bool:
        node.give_up_default(model, version, stable)
        return node.unregister(model, version)

    results = run_on_nodes(nodes, act)
    return Retired(
        tuple(result.node for result in results if result.value),
        tuple((result.node, result.error.message) for result in results if result.error is not None),
    )
