"""What is rendered: versions with the nodes that serve them, clients, and where files lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tsctl.config.deployment import Budget


@dataclass(frozen=True)
class Endpoint:
    """One node that serves a version."""

    node: str
    host: str  # an IP address
    port: int
    token: str | None = field(repr=False)  # None: the node asks for none


@dataclass(frozen=True)
class Probe:
    """What a health check sends, and a worker that works answers with 200."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Upstream:
    """One version, and the nodes that serve it."""

    model: str
    version: str
    endpoints: tuple[Endpoint, ...]
    probe: Probe | None  # None: an archive without samples, of which only the connection is checked


@dataclass(frozen=True)
class Client:
    """Somebody with a key."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    budget: Budget | None = None  # None: the gateway's own


@dataclass(frozen=True)
class Places:
    """Files that Envoy reads and writes, absolute."""

    folder: Path

    @property
    def bootstrap(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.json"

    @property
    def routes(self) -> Path:
        return self.folder / "routes.json"

    @property
    def ready(self) -> Path:
        """Which clusters /readyz asks for."""
        return self.folder / "ready.json"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.json"

    @property
    def endpoints(self) -> Path:
        """A folder with a file for each cluster."""
        return self.folder / "endpoints"

    @property
    def access_log(self) -> Path:
        return self.folder / "logs" / "access.log"

    @property
    def admin(self) -> Path:
        """A Unix socket; its path may have 108 bytes."""
        return self.folder / "admin.sock"


def cluster_name(model: str, version: str, is_shadow: bool = False) -> str:
    """The name of a version's cluster, or of the one that its copies go through."""
    return f"{model}~{version}" + ("~shadow" if is_shadow else "")


def stat_name(cluster: str) -> str:
    """A cluster's name as it stands in Envoy's statistics, where a dot would separate."""
    return cluster.replace(".", "-")
