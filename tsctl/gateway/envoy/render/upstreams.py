"""Versions with the nodes that serve them, and the file of each cluster's nodes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tsctl.gateway.envoy.messages import Json, address, document, metadata, metadata_of, typed

VersionKey = tuple[str, str]  # model and version


@dataclass(frozen=True)
class Endpoint:
    """One node that serves a version."""

    node: str
    host: str  # an IP address
    port: int
    token: str | None = field(repr=False)  # None: the node asks for none

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Probe:
    """The request of a health check, which a worker that works answers with 200."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Upstream:
    """One version, and the nodes that serve it."""

    model: str
    version: str
    endpoints: tuple[Endpoint, ...]
    probe: Probe | None  # None: an archive without samples, of which only the connection is checked

    @property
    def key(self) -> VersionKey:
        return self.model, self.version


def cluster_name(model: str, version: str, is_shadow: bool = False) -> str:
    """The name of a version's cluster, or of the one for its copies."""
    return f"{model}~{version}" + ("~shadow" if is_shadow else "")


def stat_name(cluster: str) -> str:
    """A cluster's name in Envoy's statistics, where a dot separates."""
    return cluster.replace(".", "-")


def endpoints(upstream: Upstream, is_shadow: bool) -> Json:
    """The nodes of one cluster, each with its token, which the cluster's filters and health checks send."""
    entries = [
        {
            "endpoint": {"address": address(endpoint.host, endpoint.port), "hostname": endpoint.node},
            "metadata": metadata(node=endpoint.node, authorization=f"Bearer {endpoint.token or 'none'}"),
        }
        for endpoint in upstream.endpoints
    ]
    return _assignment(cluster_name(upstream.model, upstream.version, is_shadow), entries)


def endpoints_of(document: Json | None) -> tuple[Endpoint, ...]:
    """The nodes in a document of `endpoints`; none without a document."""
    return tuple(_endpoint(entry) for entry in _entries(document)) if document else ()


def with_draining(document: Json, node: str) -> Json:
    """The document with this node draining: health-checked, and sent no requests."""
    draining = [
        {**entry, "health_status": "DRAINING"} if metadata_of(entry)["node"] == node else entry
        for entry in _entries(document)
    ]
    return _assignment(document["resources"][0]["cluster_name"], draining)


def _assignment(cluster: str, entries: list[Json]) -> Json:
    kind = "envoy.config.endpoint.v3.ClusterLoadAssignment"
    return document([typed(kind, cluster_name=cluster, endpoints=[{"lb_endpoints": entries}])])


def _endpoint(entry: Json) -> Endpoint:
    socket, values = entry["endpoint"]["address"]["socket_address"], metadata_of(entry)
    return Endpoint(
        values["node"], socket["address"], socket["port_value"], values["authorization"].removeprefix("Bearer ")
    )


def _entries(document: Json) -> list[Json]:
    entries: list[Json] = document["resources"][0]["endpoints"][0]["lb_endpoints"]
    return entries
