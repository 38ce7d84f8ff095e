"""Names of the files in `.tsctl/gateway`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GatewayFiles:
    """The files of one gateway; paths are absolute where the folder is.

    The first group is read by Envoy: `bootstrap` when it starts, the others whenever one is renamed into place.
    """

    folder: Path

    @property
    def bootstrap(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.json"

    @property
    def endpoints(self) -> Path:
        """A folder with a file for each cluster."""
        return self.folder / "endpoints"

    def endpoints_of(self, cluster: str) -> Path:
        return self.endpoints / f"{cluster}.json"

    @property
    def routes(self) -> Path:
        return self.folder / "routes.json"

    @property
    def ready(self) -> Path:
        """The clusters that /readyz asks for."""
        return self.folder / "ready.json"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.json"

    @property
    def admin(self) -> Path:
        """A Unix socket; its path may have 108 bytes."""
        return self.folder / "admin.sock"

    @property
    def access_log(self) -> Path:
        return self.folder / "logs" / "access.log"

    @property
    def envoy_log(self) -> Path:
        return self.folder / "logs" / "envoy.log"

    # The supervisor's two files have its former name, so that one which was started before is found.

    @property
    def supervisor_log(self) -> Path:
        return self.folder / "logs" / "keeper.log"

    @property
    def supervisor_record(self) -> Path:
        return self.folder / "keeper.pid.json"

    @property
    def envoy_record(self) -> Path:
        return self.folder / "envoy.pid.json"

    @property
    def keys(self) -> Path:
        return self.folder / "keys.json"

    @property
    def local_key(self) -> Path:
        """A header file for curl."""
        return self.folder / "local.header"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.folder, self.endpoints, self.access_log.parent
