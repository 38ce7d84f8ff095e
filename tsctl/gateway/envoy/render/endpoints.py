"""The nodes of each cluster: rendered, read back, and taken out of rotation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsctl.gateway.envoy.messages import Json, address, document, metadata, metadata_of, typed
from tsctl.gateway.envoy.render.inputs import Endpoint, Upstream, cluster_name


def endpoints(upstream: Upstream, is_shadow: bool) -> Json:
    """The nodes of one cluster, each with its token, which the cluster's filters and health checks send."""
    assignment = typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=cluster_name(upstream.model, upstream.version, is_shadow),
        endpoints=[{"lb_endpoints": [_entry(endpoint) for endpoint in upstream.endpoints]}],
    )
    return document([assignment])


def _entry(endpoint: Endpoint) -> Json:
    return {
        "endpoint": {"address": address(endpoint.host, endpoint.port), "hostname": endpoint.node},
        "metadata": metadata(node=endpoint.node, authorization=f"Bearer {endpoint.token or 'none'}"),
    }


def endpoints_of(document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """The nodes in a document of `endpoints`."""
    return tuple(map(_endpoint, _entries(document)))


def _endpoint(entry: Mapping[str, Any]) -> Endpoint:
    socket, values = entry["endpoint"]["address"]["socket_address"], metadata_of(entry)
    return Endpoint(
        values["node"], socket["address"], socket["port_value"], values["authorization"].removeprefix("Bearer ")
    )


def with_draining(endpoints: Mapping[str, Any], node: str) -> Json:
    """The document with this node draining: health-checked, and sent no requests."""
    [assignment] = endpoints["resources"]
    entries = [
        {**entry, "health_status": "DRAINING"} if metadata_of(entry)["node"] == node else entry
        for entry in _entries(endpoints)
    ]
    return document([{**assignment, "endpoints": [{"lb_endpoints": entries}]}])


def _entries(document: Mapping[str, Any]) -> list[Json]:
    [assignment] = document["resources"]
    [group] = assignment["endpoints"]
    entries: list[Json] = group["lb_endpoints"]
    return entries
