"""Keeps Envoy's clusters equal to the versions that the nodes serve."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from tsctl.archive.container import read_samples
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, GatewayError
from tsctl.gateway.envoy.render.upstreams import Endpoint, Probe, Upstream, VersionKey
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.state import Gateway, changing, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Traffic, only
from tsctl.nodes.observe import ObservedNode, observe
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.tokens import read_tokens

#: A health check sends the smallest sample of the archive; one larger than this would cost more than it tells.
LARGEST_PROBE = 256 << 10


def sync(gateway: Gateway) -> list[str]:
    """Make Envoy's clusters those of the versions that the nodes serve; the changes, one a line.

    A model that is served and has no route yet gets one, all to its default version. Weights are not touched.

    The nodes are asked before the lock is taken: a node that does not answer delays no change of weights or keys.
    """
    nodes, before = gateway.nodes(), upstreams_written(gateway)
    observed = observe(nodes)
    with changing(gateway):
        if upstreams_written(gateway) != before:  # another tsctl has asked the nodes since
            return sync_locked(gateway)
        return _put_observed(gateway, nodes, observed)


def sync_locked(gateway: Gateway) -> list[str]:
    """As `sync`, for a caller that holds the lock."""
    nodes = gateway.nodes()
    return _put_observed(gateway, nodes, observe(nodes))


def _put_observed(gateway: Gateway, nodes: Sequence[Node], observed: Sequence[ObservedNode]) -> list[str]:
    before, traffic = upstreams_written(gateway), traffic_in_force(gateway)
    upstreams = _derive(gateway.project, nodes, observed, before, _routed(traffic))
    served = {upstream.key for upstream in upstreams if upstream.endpoints}
    for model, target in gateway.deployment.models.items():
        if model not in traffic and (model, target.default) in served:
            traffic[model] = only(model, target.default)
    put_clusters(gateway, upstreams, traffic.values())  # those of the routes in force among them
    put_routes(gateway, traffic.values())
    return _changes(before, upstreams)


def _derive(
    project: Project,
    nodes: Sequence[Node],
    observed: Sequence[ObservedNode],
    before: Sequence[Upstream],
    routed: Iterable[VersionKey],
) -> list[Upstream]:
    """A cluster for each version that a node serves, and for each that a route names, served or not.

    A node that does not answer stays in its clusters: the health checks decide whether it gets requests.
    """
    old = {upstream.key: upstream for upstream in before}
    endpoints: dict[VersionKey, list[Endpoint]] = {key: [] for key in routed}
    archives: dict[VersionKey, str] = {}
    for node, answer in zip(nodes, observed, strict=True):
        if answer.error is not None:
            for upstream in before:
                kept = [endpoint for endpoint in upstream.endpoints if endpoint.node == node.name]
                endpoints.setdefault(upstream.key, []).extend(_endpoint(node, endpoint.token) for endpoint in kept)
            continue
        for model, served in answer.models.items():
            for version, state in served.versions.items():
                if state.workers > 0:
                    endpoints.setdefault((model, version), []).append(_endpoint(node, None))
                    archives[model, version] = state.archive
    return [
        Upstream(*key, tuple(of_version), _probe(project, archives.get(key), old.get(key)))
        for key, of_version in sorted(endpoints.items())
    ]


def _endpoint(node: Node, token: str | None) -> Endpoint:
    parts = urlsplit(node.spec.inference)
    if parts.scheme != "http":
        raise GatewayError(
            f"node {node.name} is at {node.spec.inference}, and the gateway reaches nodes over http only",
            "Put the gateway into the nodes' own network.",
        )
    if node.key_file is not None and node.key_file.is_file():
        token = read_tokens(node.key_file).inference.value
    return Endpoint(node.name, _ip(parts.hostname or ""), parts.port or 80, token)


def _ip(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise GatewayError(f"the address of {host} is not known: {error}") from None


def _probe(project: Project, archive: str | None, before: Upstream | None) -> Probe | None:
    path = project.store / archive if archive else None
    try:
        samples = read_samples(path) if path is not None and path.is_file() else None
    except ArchiveError:  # of a version that is served already: it keeps its probe
        samples = None
    if samples is None:
        return before.probe if before else None
    probes = [Probe(body, media_type) for _, body, media_type in samples if len(body) <= LARGEST_PROBE]
    return min(probes, key=lambda probe: len(probe.body), default=None)


def _routed(traffic: Mapping[str, Traffic]) -> set[VersionKey]:
    return {(model, version) for model, route in traffic.items() for version in route.versions}


def _changes(before: Sequence[Upstream], after: Sequence[Upstream]) -> list[str]:
    old, new = _served(before), _served(after)
    return [
        f"{model} {version} is {'no longer ' if (model, version, node) in old else ''}served by node {node}"
        for model, version, node in sorted(old ^ new)
    ]


def _served(upstreams: Sequence[Upstream]) -> set[tuple[str, str, str]]:
    return {(*upstream.key, endpoint.node) for upstream in upstreams for endpoint in upstream.endpoints}
