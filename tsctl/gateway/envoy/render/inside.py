"""Listeners inside Envoy: they have no port, and requests reach them from Envoy's own routes alone. Pure."""

from __future__ import annotations

from typing import Any

from tsctl.gateway.envoy.messages import CONNECT_TIMEOUT, Json, extension

#: Requests on their way to one of them; what bounds requests stands before and behind it.
MOST_REQUESTS = 1 << 20


def bootstrap_extensions() -> list[Json]:
    """What Envoy must load for them when it starts."""
    kind = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return [extension("envoy.bootstrap.internal_listener", kind)]


def connection_manager(name: str, **content: object) -> Json:
    """The network filter that speaks HTTP."""
    kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return extension("envoy.filters.network.http_connection_manager", kind, stat_prefix=name, **content)


def inside_listener(name: str, **content: object) -> Json:
    """A listener; its content is that of a connection manager."""
    chain = {"filters": [connection_manager(name, **content)]}
    return {"name": name, "internal_listener": {}, "filter_chains": [chain]}


def inside_cluster(name: str) -> Json:
    """The way to the listener of this name."""
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": name}}}}
    limits: dict[str, Any] = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MOST_REQUESTS)
    return {
        "name": name,
        "connect_timeout": CONNECT_TIMEOUT,
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def status_is(operator: str, status: int) -> Json:
    """A condition on the status of an answer."""
    value = {"default_value": status, "runtime_key": f"tsctl.status.{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}
