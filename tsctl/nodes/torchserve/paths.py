"""The files of one node on this machine."""

from __future__ import annotations

from pathlib import Path


class NodePaths:
    """The folder of one node, which only its owner may read, and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.properties"
        self.key_file = folder / "key_file.json"
        self.inference_header = folder / "inference.header"
        self.management_header = folder / "management.header"
        self.worker_python = folder / "worker-python"  # the program that TorchServe starts a worker with
        self.logs = folder / "logs"
        self.console = self.logs / "console.log"
        self.node_log = self.logs / "ts_log.log"
        self.worker_log = self.logs / "model_log.log"
        self.snapshots = self.logs / "config"
        self.metrics = folder / "metrics"  # of this node's workers, since the node was started last
        self.pending_restore = folder / "restore.json"  # the versions that are still to be registered again
