"""Takes a version out of service: no more requests, then none on their way, then off the nodes.

Invariant: a version is unregistered only after no route named it, and nothing was on its way to it, for QUIET_S.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tsctl.config.weights import percent
from tsctl.errors import GatewayError
from tsctl.gateway.change import follow_nodes
from tsctl.gateway.envoy.render import cluster_name, stat_name
from tsctl.gateway.publish import put_traffic
from tsctl.gateway.state import Gateway, changing, traffic_in_force
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.observe import observe_version
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.node import Node

#: Envoy's threads take a new route a moment after its main thread says that it is in force.
QUIET_S = 1.0
POLL_S = 0.1

Note = Callable[[str], None]


@dataclass(frozen=True)
class Retired:
    """What became of a version on each node."""

    gone: tuple[str, ...]
    absent: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]  # node and reason; the version may still be there


def retire(gateway: Gateway, model: str, version: str, timeout_s: float, note: Note) -> Retired:
    """The version has no route, had nothing in hand when it left, and is registered on no node that answers.

    What weight it had goes to the stable version. It is safe to run again after any failure.

    Args:
        timeout_s: for what is on its way to end, and afterwards once more for each node.

    Raises:
        GatewayError: it is the stable version, or was still in use at the deadline; it is registered as before then.
        ConflictError: another tsctl changes the gateway.
    """
    note("taking it off the route")
    with changing(gateway):
        _take_off(gateway, model, version)
    nodes = gateway.nodes()
    _wait_unused(gateway, nodes, model, version, timeout_s, note)
    with changing(gateway):
        if any(one.model == model and version in one.versions for one in traffic_in_force(gateway)):
            raise GatewayError(f"{model} {version} was put back on its route meanwhile, and stays registered")
        note("unregistering it")
        stable = next((one.stable for one in traffic_in_force(gateway) if one.model == model), None)
        retired = _unregister(nodes, model, version, stable)
        follow_nodes(gateway)
    return retired


def require_no_weight(gateway: Gateway, model: str, version: str) -> None:
    """The gateway, if it runs, sends the version nothing by weight.

    Raises:
        GatewayError: it does.
    """
    if not gateway.admin.is_live():
        return
    weight = next((one.weights.get(version, 0) for one in traffic_in_force(gateway) if one.model == model), 0)
    if weight:
        raise GatewayError(
            f"{model} {version} has {percent(weight)} of the requests on its route",
            f"Have it drained first: tsctl models retire {model} {version}. With --force it is unregistered at once.",
        )


def route_without(traffic: Traffic, version: str) -> Traffic:
    """The route after the version left it; its weight is the stable version's then.

    Raises:
        GatewayError: it is the stable version.
    """
    if version == traffic.stable:
        raise GatewayError(
            f"{traffic.model} {version} is stable, with {percent(traffic.weights[version])} of the requests",
            f"Give another version everything first: tsctl weights set {traffic.model} VERSION=100%",
        )
    weight = traffic.weights.get(version, 0)
    if weight:
        rest = {**traffic.weights, version: 0, traffic.stable: traffic.weights[traffic.stable] + weight}
        traffic = traffic.weighted(rest)
    return traffic.without(version)


def _take_off(gateway: Gateway, model: str, version: str) -> None:
    before = traffic_in_force(gateway)
    after = [route_without(one, version) if one.model == model and version in one.versions else one for one in before]
    if after != before:
        put_traffic(gateway, after)


def _wait_unused(
    gateway: Gateway, nodes: Sequence[Node], model: str, version: str, timeout_s: float, note: Note
) -> None:
    end = time.monotonic() + timeout_s
    quiet_since, seen = time.monotonic(), -1
    while True:
        asked, in_hand = _use(gateway, model, version)
        queued = _queued(nodes, model, version)
        now = time.monotonic()
        if asked != seen or in_hand or queued:
            quiet_since, seen = now, asked
        elif now - quiet_since >= QUIET_S:
            return
        if now > end:
            raise GatewayError(
                f"{model} {version} is still in use after {timeout_s:g} s: {in_hand} on their way from the gateway,"
                f" {queued} in the nodes' queues",
                "It has no route any more and stays registered; run this again.",
            )
        note(f"{in_hand} on their way, {queued} queued" if in_hand or queued else "nothing on its way")
        time.sleep(POLL_S)


def _use(gateway: Gateway, model: str, version: str) -> tuple[int, int]:
    """Requests that the gateway ever sent to the version, and those that are on their way."""
    if not gateway.admin.is_live():
        return 0, 0
    names = [f"cluster.{stat_name(cluster_name(model, version, is_shadow))}." for is_shadow in (False, True)]
    found = gateway.admin.counters(r"^cluster\..*\.upstream_rq_(total|active|pending_active)$")
    asked = sum(found.get(f"{name}upstream_rq_total", 0) for name in names)
    active = sum(found.get(f"{name}upstream_rq_{kind}", 0) for name in names for kind in ("active", "pending_active"))
    return asked, active


def _queued(nodes: Sequence[Node], model: str, version: str) -> int:
    """Requests that wait on nodes that answer; one that does not has no queue that could still be served."""
    return sum(state.queue for state in observe_version(nodes, model, version).values())


def _unregister(nodes: Sequence[Node], model: str, version: str, stable: str | None) -> Retired:
    def act(node: Node, note: Note) -> bool:
        _give_up_default(node, model, version, stable)
        return versions.unregister(node, model, version)

    ended = run_on_nodes(nodes, act)
    return Retired(
        tuple(one.node for one in ended if one.value is True),
        tuple(one.node for one in ended if one.value is False),
        tuple((one.node, one.error.message) for one in ended if one.error is not None),
    )


def _give_up_default(node: Node, model: str, version: str, stable: str | None) -> None:
    """Another version is the node's default, the stable one if it can be; TorchServe unregisters no default."""
    others = [state for state in node.client.describe(model) if state.version != version]
    if not others or node.client.default_version(model) != version:
        return
    able = sorted(others, key=lambda state: (not state.is_ready, state.version != stable))
    versions.set_default(node, model, able[0].version)
