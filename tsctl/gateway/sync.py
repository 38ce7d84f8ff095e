"""Keeps Envoy's clusters equal to the versions that the nodes serve."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from tsctl.archive.container import UNREADABLE
from tsctl.archive.inspect import Facts, facts_of
from tsctl.archive.samples import read_samples
from tsctl.config.nodes import PLAIN, TRITON
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, GatewayError, NodeError
from tsctl.gateway.envoy.render.upstreams import (
    EMBEDDINGS,
    TEXT,
    Endpoint,
    Offer,
    Probe,
    Upstream,
    VersionKey,
    Way,
)
from tsctl.gateway.files import running_pid
from tsctl.gateway.notices import Notices
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.shared.control import SharedGateways
from tsctl.gateway.state import Gateway, changing, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Traffic, only
from tsctl.host.files import stamp
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.nodes.observed import ObservedNode, ObservedVersion

logger = logging.getLogger(__name__)

#: A health check sends the smallest sample of the archive; one larger than this would cost more than it tells.
LARGEST_PROBE = 256 << 10
#: Requests at most for a version on a node that does not bound them, where its archive cannot be read.
DEFAULT_QUEUE = 1000
#: Seconds of an answer at most, where an archive does not say.
DEFAULT_RESPONSE_S = 120
#: The engine of nodes that serve stock archives.
TORCHSERVE = "torchserve"
#: Archives with this handler answer /v1/embeddings, as do those that say so.
EMBEDDING_HANDLER = "handlers.embedding"


@dataclass
class Settled:
    """The state in which a sync had nothing to change; while it lasts, the next one has nothing to do."""

    state: tuple[object, ...] | None = None


def sync(gateway: Gateway, notices: Notices | None = None, settled: Settled | None = None) -> list[str]:
    """Make Envoy's clusters those of the versions that the nodes serve; the changes, one a line.

    A model that is served and has no route yet gets one, all to its default version. Weights are not touched.

    The nodes are asked before the lock is taken: a node that does not answer delays no change of weights or keys.
    A node or an archive that cannot be read stays as it was, and keeps no other from being changed.

    Args:
        notices: gets what cannot be read; None: it is logged at every call.
        settled: of the sync before, for one that follows the nodes: rendering hundreds of versions takes a second, with
            the lock held. None: everything is rendered.
    """
    notices = notices or Notices(logger)
    nodes, before = gateway.nodes(), upstreams_written(gateway)
    observed = observe(nodes)
    state = _state(gateway, nodes, observed, notices) if settled is not None else None
    if settled is not None and settled.state == state:
        return []
    with changing(gateway):
        if upstreams_written(gateway) != before:  # another tsctl has asked the nodes since
            return sync_locked(gateway, notices)
        changes = _put_observed(gateway, nodes, observed, notices)
    if settled is not None:
        settled.state = state if state == _state(gateway, nodes, observed, notices) else None
    return changes


def _state(
    gateway: Gateway, nodes: Sequence[Node], observed: Sequence[ObservedNode], notices: Notices
) -> tuple[object, ...]:
    """All that a sync depends on: what the nodes serve, the deployment, the files, and what Envoy has in force."""
    traffic, files = traffic_in_force(gateway), gateway.files
    upstreams = _derive(gateway.project, nodes, observed, upstreams_written(gateway), _routed(traffic), notices)
    paths = (files.clusters, files.routes, files.keys, files.tokens, files.ready, files.sharing)
    stamps = [stamp(path) for path in paths]
    return gateway, gateway.waiting_bytes, traffic, upstreams, stamps, running_pid(files.envoy_record)


def sync_locked(gateway: Gateway, notices: Notices | None = None) -> list[str]:
    """As `sync`, for a caller that holds the lock."""
    nodes = gateway.nodes()
    return _put_observed(gateway, nodes, observe(nodes), notices or Notices(logger))


def _put_observed(
    gateway: Gateway, nodes: Sequence[Node], observed: Sequence[ObservedNode], notices: Notices
) -> list[str]:
    before, traffic = upstreams_written(gateway), traffic_in_force(gateway)
    upstreams = _derive(gateway.project, nodes, observed, before, _routed(traffic), notices)
    clusters = {node.name for node in nodes if node.is_cluster}
    if gateway.name:  # its routes come from the operator's machine, and so does who is drained
        upstreams = as_published(upstreams, before)
        put_clusters(gateway, upstreams, traffic.values())
        put_routes(gateway, traffic.values())
        return _changes(before, upstreams, clusters)
    served = {upstream.key for upstream in upstreams if upstream.endpoints}
    for model, target in gateway.deployment.models.items():
        if model not in traffic and (model, target.default) in served:
            traffic[model] = only(model, target.default)
    if gateway.shared is not None:
        _publish(gateway.shared, gateway.project, upstreams, traffic)
    else:
        put_clusters(gateway, upstreams, traffic.values())  # those of the routes in force among them
        put_routes(gateway, traffic.values())
    return _changes(before, upstreams, clusters)


def _publish(
    shared: SharedGateways, project: Project, upstreams: Sequence[Upstream], traffic: Mapping[str, Traffic]
) -> None:
    """All gateways have these versions and routes, and deployment.yaml as it is now."""
    text = project.deployment.read_text(encoding="utf-8")
    routes = tuple(traffic.values())
    shared.publish(
        "versions of nodes, and deployment.yaml",
        lambda before: replace(before, deployment=text, upstreams=tuple(upstreams), traffic=routes),
    )


def as_published(upstreams: Sequence[Upstream], before: Sequence[Upstream]) -> list[Upstream]:
    """The versions, with each node that is drained still drained: who drains it says when that ends. Pure."""
    drained = {(*up.key, place.node) for up in before for place in up.endpoints if place.is_draining}
    return [
        replace(
            up,
            endpoints=tuple(replace(place, is_draining=(*up.key, place.node) in drained) for place in up.endpoints),
        )
        for up in upstreams
    ]


def _derive(
    project: Project,
    nodes: Sequence[Node],
    observed: Sequence[ObservedNode],
    before: Sequence[Upstream],
    routed: Iterable[VersionKey],
    notices: Notices,
) -> list[Upstream]:
    """A cluster for each version that a node serves, and for each that a route names, served or not.

    A node that does not answer, or whose address or token is not known now, stays in its clusters: the health checks
    decide whether it gets requests.
    """
    known = {upstream.key: upstream for upstream in before}
    endpoints: dict[VersionKey, list[Endpoint]] = {key: [] for key in routed}
    archives: dict[VersionKey, str] = {}
    askers: dict[VersionKey, Node] = {}  # a node of the version, which says how it is asked
    for node, answer in zip(nodes, observed, strict=True):
        place = _endpoint(node, notices)
        if answer.error is not None or place is None:
            for upstream in before:
                kept = [endpoint for endpoint in upstream.endpoints if endpoint.node == node.name]
                now = [_as_before(place, old, node) if place else old for old in kept]
                endpoints.setdefault(upstream.key, []).extend(now)
            continue
        for model, served in answer.models.items():
            for version, state in served.versions.items():
                key = model, version
                if state.workers == 0 or _is_asked_otherwise(node, askers.setdefault(key, node), key, notices):
                    continue
                endpoints.setdefault(key, []).extend(_places(place, state))
                archives[key] = state.archive
    return [
        Upstream(
            *key,
            tuple(of_version),
            _probe(project, archives.get(key), known.get(key), notices),
            _way(project, askers.get(key), key, archives.get(key), known.get(key)),
            _offer(project, archives.get(key), known.get(key)),
            is_stock(project, archives.get(key), of_version, known.get(key)),
        )
        for key, of_version in sorted(endpoints.items())
    ]


def _endpoint(node: Node, notices: Notices) -> Endpoint | None:
    """Where the node is and its token; None where that cannot be known now."""
    parts = urlsplit(node.spec.url)
    if parts.scheme != "http":
        raise GatewayError(
            f"node {node.name} is at {node.spec.url}, and the gateway reaches nodes over http only",
            "Put the gateway into the nodes' own network.",
        )
    try:
        host = str(socket.getaddrinfo(parts.hostname or "", None, type=socket.SOCK_STREAM)[0][4][0])
        token = node.token()
    except (OSError, NodeError) as error:
        notices.trouble(f"node {node.name} at {node.spec.url}", str(error))
        return None
    notices.over(f"node {node.name} at {node.spec.url}")
    return Endpoint(node.name, host, parts.port or 80, token, engine=node.engine)


def _places(place: Endpoint, state: ObservedVersion) -> list[Endpoint]:
    """The node's endpoints for a version: one, or one for each machine of a cluster that answers.

    Args:
        place: the endpoint of a node that has one address for everything.
    """
    if state.addresses:
        parts = [urlsplit(address) for address in state.addresses]
        return [replace(place, host=one.hostname or place.host, port=one.port or place.port) for one in parts]
    # where a version has an address of its own, the host is the node's: its server listens where its node does
    return [replace(place, port=urlsplit(state.address).port or place.port) if state.address else place]


def _as_before(place: Endpoint, old: Endpoint, node: Node) -> Endpoint:
    """The endpoint of a version on a node that does not say now what it serves."""
    if node.is_cluster:
        return old
    return replace(place, token=place.token or old.token, port=old.port if node.own_addresses else place.port)


def _is_asked_otherwise(node: Node, other: Node, key: VersionKey, notices: Notices) -> bool:
    """Whether the node cannot be in one cluster with the other one; a version has one cluster."""
    subject = f"{' '.join(key)} on node {node.name}"
    if (node.protocol, node.path(*key)) == (other.protocol, other.path(*key)):
        notices.over(subject)
        return False
    notices.trouble(subject, f"it gets no requests: engine {node.engine} and node {other.name} need different clusters")
    return True


def _way(
    project: Project, node: Node | None, key: VersionKey, archive: str | None, before: Upstream | None
) -> Way | None:
    """How the node is asked for the version; None: as TorchServe. Without a node, as before."""
    if node is None or archive is None:
        return before.way if before else None
    path = node.path(*key)
    if node.protocol == PLAIN and path == Node.path(node, *key):
        return None
    return Way(node.protocol, path, _queue(project, archive) if node.protocol == TRITON else None)


def _offer(project: Project, archive: str | None, before: Upstream | None) -> Offer | None:
    """What the archive says of the OpenAI API; as before where it is not here, or cannot be read."""
    if (facts := _facts(project, archive)) is not None:
        return offer_of(facts)
    return before.offer if before else None


def is_stock(project: Project, archive: str | None, endpoints: Sequence[Endpoint], before: Upstream | None) -> bool:
    """Whether the archive was not built by tsctl; as before where it is not here, or cannot be read.

    One that nobody here has read may be stock where TorchServe alone serves it. Handlers of ours read forms there too.
    """
    if (facts := _facts(project, archive)) is not None:
        return facts.is_stock
    return before.is_stock if before else all(endpoint.engine == TORCHSERVE for endpoint in endpoints)


def _facts(project: Project, archive: str | None) -> Facts | None:
    """The archive's own description; None where it is not here, or cannot be read."""
    try:
        return facts_of(project.store / archive) if archive else None
    except (ArchiveError, *UNREADABLE):  # told with the health check, which comes from the same file
        return None


def offer_of(facts: Facts) -> Offer | None:
    """What an archive offers of the OpenAI API."""
    answer_s = float(facts.integer("responseTimeout") or DEFAULT_RESPONSE_S)
    if (generation := facts.serving.generation) is not None:
        return Offer(TEXT, min(generation.first_token_s or answer_s, answer_s), answer_s)
    gives_embeddings = facts.serving.embeddings or facts.handler == EMBEDDING_HANDLER
    return Offer(EMBEDDINGS, answer_s, answer_s) if gives_embeddings else None


def _queue(project: Project, archive: str) -> int:
    """Requests that may wait for the version, as its archive says."""
    facts = _facts(project, archive)
    return (facts.integer("jobQueueSize") if facts is not None else None) or DEFAULT_QUEUE


def _probe(project: Project, archive: str | None, before: Upstream | None, notices: Notices) -> Probe | None:
    """The smallest sample of the archive; the one of before where the archive is not here, or cannot be read."""
    kept = before.probe if before else None
    path = project.store / archive if archive else None
    try:
        stat = path.stat() if path is not None else None
        if path is None or stat is None:
            return kept
        probe = _read_probe(path, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        return kept
    except (ArchiveError, *UNREADABLE) as error:
        notices.trouble(f"archive {archive}", f"{error}; its health check stays as it was")
        return kept
    notices.over(f"archive {archive}")
    return probe


@lru_cache(16_384)
def _read_probe(path: Path, changed_ns: int, size: int) -> Probe | None:
    """The archive's smallest sample, read anew where the file was changed."""
    probes = [Probe(body, media_type) for _, body, media_type in read_samples(path) if len(body) <= LARGEST_PROBE]
    return min(probes, key=lambda probe: len(probe.body), default=None)


def _routed(traffic: Mapping[str, Traffic]) -> set[VersionKey]:
    return {(model, version) for model, route in traffic.items() for version in route.versions}


def _changes(before: Sequence[Upstream], after: Sequence[Upstream], clusters: Collection[str]) -> list[str]:
    """What became of the versions.

    Args:
        clusters: nodes that are clusters, whose machines are named.
    """
    old, new = _served(before, clusters), _served(after, clusters)
    return [
        f"{model} {version} is {'no longer ' if (model, version, node) in old else ''}served by node {node}"
        for model, version, node in sorted(old ^ new)
    ]


def _served(upstreams: Sequence[Upstream], clusters: Collection[str]) -> set[tuple[str, str, str]]:
    return {
        (*upstream.key, f"{place.node} at {place.address}" if place.node in clusters else place.node)
        for upstream in upstreams
        for place in upstream.endpoints
    }
