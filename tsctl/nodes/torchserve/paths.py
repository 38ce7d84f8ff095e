"""The files of one node on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodePaths:
    """The folder of one node; only its owner may read it."""

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "node.json"

    @property
    def config(self) -> Path:
        return self.folder / "config.properties"

    @property
    def key_file(self) -> Path:
        return self.folder / "key_file.json"

    @property
    def inference_header(self) -> Path:
        return self.folder / "inference.header"

    @property
    def management_header(self) -> Path:
        return self.folder / "management.header"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def console(self) -> Path:
        return self.logs / "console.log"

    @property
    def worker_log(self) -> Path:
        return self.logs / "model_log.log"

    @property
    def metrics(self) -> Path:
        """The metrics of this node's workers, since the node was started last."""
        return self.folder / "metrics"

    @property
    def snapshots(self) -> Path:
        return self.logs / "config"

    @property
    def pending_restore(self) -> Path:
        """The versions that the node served before it was started, until all of them are registered again."""
        return self.folder / "restore.json"
