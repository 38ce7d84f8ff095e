"""Changes of weights, shadows and keys: checked, put where Envoy reads them, and in force when the call returns.

One writer at a time. A change that Envoy refuses leaves what was in force, in the files as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from tsctl.config.deployment import RouteSpec
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render.clusters import CHECK_SLACK_S
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.keys import Record, write_keys
from tsctl.gateway.publish import POLL_S, put_clusters, put_routes
from tsctl.gateway.shared.control import OVERTAKEN_MOST, Overtaken
from tsctl.gateway.state import (
    Gateway,
    changing,
    keys_written,
    require_live,
    require_route,
    traffic_in_force,
    upstreams_written,
)
from tsctl.gateway.sync import sync_locked
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.host.files import with_reserve
from tsctl.host.wait import wait_until
from tsctl.nodes.observe import observe_version

#: Seconds until a version that is ready has passed a health check: one is sent each second, and a busy worker takes its
#: time.
HEALTHY_S = 10.0

Value = TypeVar("Value")


def set_weights(gateway: Gateway, model: str, weights: Mapping[str, int]) -> Traffic:
    """The model's route has these weights, in force when this returns.

    Raises:
        GatewayError: a version is not known or cannot answer, or Envoy refused the change.
        ConflictError: another tsctl changes the gateway.
    """
    answering = [version for version, weight in weights.items() if weight]
    return _change_route(gateway, model, lambda route: route.weighted(weights), answering, weights)


def set_shadow(gateway: Gateway, model: str, version: str | None, share: int) -> Traffic:
    """Copies of this share of the model's requests go to the version; None: to none. Errors as in `set_weights`."""
    shadow = Shadow(version, share) if version is not None and share else None
    named = [shadow.version] if shadow is not None else []
    return _change_route(gateway, model, lambda route: replace(route, shadow=shadow), named, named)


def set_clients(gateway: Gateway, edit: Callable[[list[Record]], list[Record]], new_keys: Mapping[str, str]) -> None:
    """The keys are those that `edit` returns, in force when this returns. `new_keys` maps SHA-256 to key."""

    def change() -> None:
        records = edit(keys_written(gateway)[0])
        put_routes(gateway, traffic_in_force(gateway).values(), records, new_keys)
        if gateway.shared is None:
            with_reserve(gateway.files.reserve, lambda: write_keys(gateway.files.keys, records))

    _changed(gateway, change)


def _change_route(
    gateway: Gateway,
    model: str,
    edit: Callable[[Traffic], Traffic],
    answering: Sequence[str],  # versions that must be able to answer
    named: Collection[str],  # versions that need a cluster
) -> Traffic:
    """Replace the model's route by the edited one."""

    def change() -> Traffic:
        require_live(gateway)
        traffic = traffic_in_force(gateway)
        if model not in traffic or not set(named) <= _served(gateway, model):
            sync_locked(gateway)
            traffic = traffic_in_force(gateway)
        before = require_route(traffic, model)
        _require_served(gateway, model, named)
        _require_ready(gateway, model, [version for version in answering if not before.weights.get(version)])
        require_healthy(gateway, model, answering)
        traffic[model] = edit(before)
        if traffic[model].shadow != before.shadow and gateway.shared is None:  # several make the cluster themselves
            put_clusters(gateway, upstreams_written(gateway), [*traffic.values(), before])
        put_routes(gateway, traffic.values())
        return traffic[model]

    return _changed(gateway, change)


def _changed(gateway: Gateway, change: Callable[[], Value]) -> Value:
    """The result of the change, which is made anew where another machine published another one meanwhile."""
    for _ in range(OVERTAKEN_MOST):
        with suppress(Overtaken), changing(gateway):
            return change()
    with changing(gateway):
        return change()


def _served(gateway: Gateway, model: str) -> set[str]:
    """Versions of the model that have a cluster."""
    return {upstream.version for upstream in upstreams_written(gateway) if upstream.model == model}


def _require_served(gateway: Gateway, model: str, versions: Collection[str]) -> None:
    served = _served(gateway, model)
    for version in versions:
        if version not in served:
            raise GatewayError(
                f"no node serves {model} {version}; served are {', '.join(sorted(served))}",
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


def require_healthy(gateway: Gateway, model: str, versions: Sequence[str]) -> None:
    """Envoy has a healthy node for each version, within HEALTHY_S after the first check of it has ended.

    A first check may take its whole time: a node loses the requests of a version that is unregistered.
    """
    unhealthy = list(versions)
    names = {cluster_name(model, version) for version in versions}

    def are_healthy() -> bool:
        hosts = gateway.admin.hosts()
        unhealthy[:] = [v for v in versions if not any(h.is_healthy for h in hosts.get(cluster_name(model, v), ()))]
        return not unhealthy

    first_s = gateway.route_specs.get(model, RouteSpec()).deadline_s + CHECK_SLACK_S
    wait_until(lambda: names <= gateway.admin.hosts().keys(), first_s, POLL_S)
    if not wait_until(are_healthy, HEALTHY_S, POLL_S):
        raise GatewayError(
            f"{model} {', '.join(unhealthy)} cannot answer on any node, so it cannot get traffic",
            "See 'tsctl status' and 'tsctl gateway status'.",
        )
