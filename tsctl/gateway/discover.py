"""Derives Envoy's clusters from what the nodes serve."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tsctl.archive.container import read_samples
from tsctl.config.project import Project
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.messages import metadata_of
from tsctl.gateway.envoy.render import Endpoint, Probe, Upstream
from tsctl.nodes.observe import ObservedNode
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.tokens import read_tokens

#: A health check's sample is the smallest of the archive's; a larger one than this would cost more than it tells.
LARGEST_PROBE = 256 << 10

Pair = tuple[str, str]  # model, version


def upstreams(
    project: Project,
    nodes: Sequence[Node],
    observed: Sequence[ObservedNode],
    before: Sequence[Upstream],
    wanted: Iterable[Pair],
) -> list[Upstream]:
    """A cluster for each version that a node serves, and for each that a route names.

    Args:
        before: as they were. A node that does not answer stays where it was: whether it takes requests is for the
            health checks to say.
        wanted: what routes name, which must have a cluster even where no node serves it now.
    """
    old = {(one.model, one.version): one for one in before}
    found: dict[Pair, dict[str, Endpoint]] = {pair: {} for pair in wanted}
    archives: dict[Pair, str] = {}
    for node, answer in zip(nodes, observed, strict=True):
        if answer.error is not None:
            for pair, upstream in old.items():
                for kept in (e for e in upstream.endpoints if e.node == node.name):
                    found.setdefault(pair, {})[node.name] = _endpoint(node, kept.token)
            continue
        for model, served in answer.models.items():
            for version, state in served.versions.items():
                if state.workers > 0:
                    found.setdefault((model, version), {})[node.name] = _endpoint(node, None)
                    archives[model, version] = state.archive
    return [
        Upstream(*pair, tuple(places.values()), _probe(project, archives.get(pair), old.get(pair)))
        for pair, places in sorted(found.items())
    ]


def known_endpoints(document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """What `render.endpoints` wrote, read back."""
    [assignment] = document["resources"]
    found = []
    for group in assignment["endpoints"]:
        for entry in group["lb_endpoints"]:
            address = entry["endpoint"]["address"]["socket_address"]
            told = metadata_of(entry)
            token = told["authorization"].removeprefix("Bearer ")
            found.append(Endpoint(told["node"], address["address"], address["port_value"], token))
    return tuple(found)


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
    if path is None or not path.is_file():
        return before.probe if before else None
    samples = _small(path)
    return Probe(samples[0][1], samples[0][2]) if samples else None


def _small(archive: Path) -> list[tuple[str, bytes, str]]:
    fitting = [sample for sample in read_samples(archive) if len(sample[1]) <= LARGEST_PROBE]
    return sorted(fitting, key=lambda sample: len(sample[1]))


def known_upstreams(clusters: Mapping[str, Any], endpoints_of: Mapping[str, Mapping[str, Any]]) -> list[Upstream]:
    """What `render.clusters` and `render.endpoints` wrote, read back.

    Args:
        clusters: the document of clusters.
        endpoints_of: documents of endpoints, by the name of their cluster.
    """
    found = []
    for cluster in clusters["resources"]:
        if not cluster.get("health_checks"):  # the cluster of a shadow's copies
            continue
        told = metadata_of(cluster)
        places = known_endpoints(endpoints_of[cluster["name"]]) if cluster["name"] in endpoints_of else ()
        found.append(Upstream(told["model"], told["version"], places, _known_probe(cluster["health_checks"][0])))
    return found


def _known_probe(check: Mapping[str, Any]) -> Probe | None:
    asked = check.get("http_health_check")
    if asked is None:
        return None
    headers = {entry["header"]["key"]: entry["header"]["value"] for entry in asked["request_headers_to_add"]}
    return Probe(bytes.fromhex(asked["send"]["text"]), headers["content-type"])
