"""Inputs of the renderer: versions with the nodes that serve them, and clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from tsctl.config.deployment import Budget

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


@dataclass(frozen=True)
class Client:
    """A holder of keys."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    budget: Budget | None = None  # None: the gateway's own


def cluster_name(model: str, version: str, is_shadow: bool = False) -> str:
    """The name of a version's cluster, or of the one for its copies."""
    return f"{model}~{version}" + ("~shadow" if is_shadow else "")


def stat_name(cluster: str) -> str:
    """A cluster's name in Envoy's statistics, where a dot separates."""
    return cluster.replace(".", "-")
