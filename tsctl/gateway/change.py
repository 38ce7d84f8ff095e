"""Every change of what the gateway does: checked, put where Envoy reads it, and in force when the call returns.

One writer at a time. A change that Envoy refuses leaves what was in force, in the files as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tsctl.config.weights import percent
from tsctl.errors import GatewayError
from tsctl.gateway import discover
from tsctl.gateway.envoy.render import Upstream, cluster_name
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import Record, plain_keys, read_keys, write_keys
from tsctl.gateway.publish import POLL_S, TAKEN_S, put_clusters, put_route_file, put_traffic, routes_of
from tsctl.gateway.state import Gateway, changing, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Shadow, Traffic, only
from tsctl.nodes.observe import ObservedNode, observe, observe_version
from tsctl.nodes.torchserve.node import Node


def sync(gateway: Gateway) -> list[str]:
    """Envoy's clusters are the versions that the nodes serve now; what changed, for people.

    A model that is served and has no route yet gets one, all to its default version. Weights are not touched.

    The nodes are asked before the lock is taken: one that is silent holds up nobody who changes weights or keys.
    """
    nodes, before = gateway.nodes(), upstreams_written(gateway)
    observed = observe(nodes)
    with changing(gateway):
        if upstreams_written(gateway) != before:  # somebody asked the nodes later than this
            return follow_nodes(gateway)
        return _follow(gateway, nodes, observed)


def follow_nodes(gateway: Gateway) -> list[str]:
    """As `sync`, for a caller that holds the lock."""
    nodes = gateway.nodes()
    return _follow(gateway, nodes, observe(nodes))


def _follow(gateway: Gateway, nodes: Sequence[Node], observed: Sequence[ObservedNode]) -> list[str]:
    before = upstreams_written(gateway)
    traffic = traffic_in_force(gateway)
    routed = [(one.model, version) for one in traffic for version in one.versions]
    found = discover.upstreams(gateway.project, nodes, observed, before, routed)
    traffic = _with_new_models(gateway, traffic, found)
    changes = _described(before, found)
    needed = {(one.model, version) for one in traffic for version in one.versions}
    put_clusters(gateway, found, keep=[one for one in before if (one.model, one.version) in needed])
    put_traffic(gateway, traffic)
    put_clusters(gateway, found)
    return changes


def set_weights(gateway: Gateway, model: str, weights: Mapping[str, int]) -> Traffic:
    """The model's route has these weights, in force when this returns.

    Raises:
        GatewayError: a version is not known or cannot answer, or Envoy refused the change.
        ConflictError: another tsctl changes the gateway.
    """

    def edit(before: Traffic) -> Traffic:
        return before.weighted(weights)

    return _change_route(gateway, model, edit, [version for version, weight in weights.items() if weight], weights)


def set_shadow(gateway: Gateway, model: str, version: str | None, share: int) -> Traffic:
    """Copies of this share of the model's requests go to the version; None: to none.

    Raises:
        GatewayError, ConflictError: as in set_weights.
    """

    def edit(before: Traffic) -> Traffic:
        shadow = Shadow(version, share) if version is not None and share else None
        return Traffic(before.model, before.weights, before.canary, shadow)

    named = [version] if version is not None and share else []
    return _change_route(gateway, model, edit, named, named)


def set_clients(gateway: Gateway, edit: Callable[[list[Record]], list[Record]], plain: Mapping[str, str]) -> None:
    """The keys are what `edit` makes of them, in force when this returns.

    Args:
        plain: new keys by their SHA-256.
    """
    with changing(gateway):
        records = edit(read_keys(gateway.keys_file))
        traffic = traffic_in_force(gateway)
        old = read_document(gateway.places.routes)
        known = {**plain_keys(old), **plain}
        put_route_file(gateway, routes_of(gateway, traffic, records, known))
        write_keys(gateway.keys_file, records)


def _change_route(
    gateway: Gateway,
    model: str,
    edit: Callable[[Traffic], Traffic],
    answering: Sequence[str],
    named: Sequence[str] | Mapping[str, int],
) -> Traffic:
    with changing(gateway):
        if not gateway.admin.is_live():
            raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")
        traffic = {one.model: one for one in traffic_in_force(gateway)}
        known = {(one.model, one.version) for one in upstreams_written(gateway)}
        if model not in traffic or any((model, version) not in known for version in named):
            follow_nodes(gateway)
            traffic = {one.model: one for one in traffic_in_force(gateway)}
            known = {(one.model, one.version) for one in upstreams_written(gateway)}
        if model not in traffic:
            raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(traffic) or 'none'}.")
        for version in named:
            if (model, version) not in known:
                versions = ", ".join(v for m, v in sorted(known) if m == model)
                raise GatewayError(
                    f"no node serves {model} {version}; served are {versions}",
                    f"Register it first: tsctl models register {model}:{version}",
                )
        begin = [version for version in answering if not traffic[model].weights.get(version)]
        _require_ready(gateway, model, begin)
        _require_answering(gateway, model, answering)
        changed = edit(traffic[model])
        put_traffic(gateway, [changed if one.model == model else one for one in traffic.values()])
        return changed


def _require_ready(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    """Some node says that it has ready workers for each version that is to get its first traffic.

    Health checks tell it as well, but a few seconds late. Nodes that do not answer say nothing, and are not waited for
    where a version has traffic already: going back to it must be quick.
    """
    if not versions:
        return
    for version in versions:
        said = observe_version(gateway.nodes(), model, version)
        if said and not any(state.is_ready for state in said.values()):
            raise GatewayError(
                f"{model} {version} is not ready on any node ({', '.join(said)}), so it cannot get traffic",
                f"See 'tsctl status'; 'tsctl models scale {model} {version} 1' starts a worker.",
            )


def _require_answering(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    end = time.monotonic() + TAKEN_S
    while True:
        hosts = gateway.admin.hosts()
        silent = [v for v in versions if not any(h.is_healthy for h in hosts.get(cluster_name(model, v), ()))]
        if not silent:
            return
        if time.monotonic() > end:
            raise GatewayError(
                f"{model} {', '.join(silent)} cannot answer on any node, so it cannot get traffic",
                "See 'tsctl status' and 'tsctl gateway status'.",
            )
        time.sleep(POLL_S)


def _with_new_models(gateway: Gateway, traffic: Sequence[Traffic], found: Sequence[Upstream]) -> list[Traffic]:
    """A route for each model of the deployment that some node serves in its default version."""
    routed = {one.model for one in traffic}
    served = {(one.model, one.version) for one in found if one.endpoints}
    new = [
        only(model, target.default)
        for model, target in gateway.deployment.models.items()
        if model not in routed and (model, target.default) in served
    ]
    return [*traffic, *new]


def _described(before: Sequence[Upstream], found: Sequence[Upstream]) -> list[str]:
    old = {(one.model, one.version): {e.node for e in one.endpoints} for one in before}
    new = {(one.model, one.version): {e.node for e in one.endpoints} for one in found}
    changes = []
    for model, version in sorted(old.keys() | new.keys()):
        came = new.get((model, version), set()) - old.get((model, version), set())
        left = old.get((model, version), set()) - new.get((model, version), set())
        changes += [f"{model} {version} is served by node {node}" for node in sorted(came)]
        changes += [f"{model} {version} is no longer served by node {node}" for node in sorted(left)]
    return changes


def weights_text(traffic: Traffic) -> str:
    """`1.0 95%, 2.0 5%`, the largest first."""
    ranked = sorted(traffic.weights.items(), key=lambda item: -item[1])
    return ", ".join(f"{version} {percent(weight)}" for version, weight in ranked)
