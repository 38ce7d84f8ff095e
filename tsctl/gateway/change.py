"""Changes of weights, shadows and keys: checked, put where Envoy reads them, and in force when the call returns.

One writer at a time. A change that Envoy refuses leaves what was in force, in the files as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render import cluster_name
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import Record, plain_keys, read_keys, write_keys
from tsctl.gateway.publish import POLL_S, TAKEN_S, put_route_file, put_traffic, route_file
from tsctl.gateway.state import Gateway, changing, traffic_in_force, upstreams_written
from tsctl.gateway.sync import sync_locked
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.host.wait import wait_until
from tsctl.nodes.observe import observe_version


def set_weights(gateway: Gateway, model: str, weights: Mapping[str, int]) -> Traffic:
    """The model's route has these weights, in force when this returns.

    Raises:
        GatewayError: a version is not known or cannot answer, or Envoy refused the change.
        ConflictError: another tsctl changes the gateway.
    """
    answering = [version for version, weight in weights.items() if weight]
    return _change_route(gateway, model, lambda route: route.weighted(weights), answering, weights)


def set_shadow(gateway: Gateway, model: str, version: str | None, share: int) -> Traffic:
    """Copies of this share of the model's requests go to the version; None: to none.

    Raises:
        GatewayError, ConflictError: as in set_weights.
    """
    shadow = Shadow(version, share) if version is not None and share else None
    named = [shadow.version] if shadow is not None else []
    return _change_route(gateway, model, lambda route: route.shadowed(shadow), named, named)


def set_clients(gateway: Gateway, edit: Callable[[list[Record]], list[Record]], plain: Mapping[str, str]) -> None:
    """The keys are those that `edit` returns, in force when this returns.

    Args:
        plain: new keys by their SHA-256.
    """
    with changing(gateway):
        records = edit(read_keys(gateway.files.keys))
        known = {**plain_keys(read_document(gateway.files.routes)), **plain}
        put_route_file(gateway, route_file(gateway, traffic_in_force(gateway), records, known))
        write_keys(gateway.files.keys, records)


def _change_route(
    gateway: Gateway,
    model: str,
    edit: Callable[[Traffic], Traffic],
    answering: Sequence[str],
    named: Collection[str],
) -> Traffic:
    """Replace the model's route by the edited one.

    Args:
        answering: versions that must be able to answer.
        named: versions that need a cluster.
    """
    with changing(gateway):
        if not gateway.admin.is_live():
            raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")
        traffic = _routes(gateway)
        if model not in traffic or not set(named) <= set(_served(gateway, model)):
            sync_locked(gateway)
            traffic = _routes(gateway)
        if model not in traffic:
            raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(traffic) or 'none'}.")
        _require_served(gateway, model, named)
        _require_ready(gateway, model, [version for version in answering if not traffic[model].weights.get(version)])
        _require_healthy(gateway, model, answering)
        traffic[model] = edit(traffic[model])
        put_traffic(gateway, list(traffic.values()))
        return traffic[model]


def _routes(gateway: Gateway) -> dict[str, Traffic]:
    return {route.model: route for route in traffic_in_force(gateway)}


def _served(gateway: Gateway, model: str) -> list[str]:
    """Versions of the model that have a cluster."""
    return sorted(upstream.version for upstream in upstreams_written(gateway) if upstream.model == model)


def _require_served(gateway: Gateway, model: str, versions: Collection[str]) -> None:
    served = _served(gateway, model)
    for version in versions:
        if version not in served:
            raise GatewayError(
                f"no node serves {model} {version}; served are {', '.join(served)}",
                f"Register it first: tsctl models register {model}:{version}",
            )


def _require_ready(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    """Some node has ready workers for each version that is to get its first traffic.

    Health checks say so as well, but a few seconds late. A version that has traffic already is not checked, and nodes
    that do not answer are not waited for: a return to it must be quick.
    """
    for version in versions:
        observed = observe_version(gateway.nodes(), model, version)
        if observed and not any(state.is_ready for state in observed.values()):
            raise GatewayError(
                f"{model} {version} is not ready on any node ({', '.join(observed)}), so it cannot get traffic",
                f"See 'tsctl status'; 'tsctl models scale {model} {version} 1' starts a worker.",
            )


def _require_healthy(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    """Envoy has a healthy node for each version, within TAKEN_S."""
    unhealthy = list(versions)

    def are_healthy() -> bool:
        hosts = gateway.admin.hosts()
        unhealthy[:] = [v for v in versions if not any(h.is_healthy for h in hosts.get(cluster_name(model, v), ()))]
        return not unhealthy

    if not wait_until(are_healthy, TAKEN_S, POLL_S):
        raise GatewayError(
            f"{model} {', '.join(unhealthy)} cannot answer on any node, so it cannot get traffic",
            "See 'tsctl status' and 'tsctl gateway status'.",
        )
