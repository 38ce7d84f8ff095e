"""Stock TorchServe as a contender: its own defaults, and its own BaseHandler around the peers' model code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.contenders import SERVERS, Model
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.targets.project import build_stock_archive, write_stock_config
from tsctl.compare.contender import Endpoint, endpoint_of
from tsctl.config.archive import Serving
from tsctl.config.project import Project

NAME = "stock TorchServe"


class StockContender:
    """A node with TorchServe's defaults and an archive of torch-model-archiver.

    Args:
        folder: empty.
        serving: whose batch and queue the archive gets.
    """

    name = NAME
    unavailable = ""

    def __init__(self, project: Project, folder: Path, model: Model, serving: Serving) -> None:
        self._project = project
        self._folder = folder
        self._model = model
        self._serving = serving
        self._target: NodeTarget | None = None

    def start(self) -> Endpoint:
        """Start the node from nothing, and register the archive."""
        if self._target is None:
            node = BenchmarkNode(self._project, self._folder / "node", is_default=True)
            self._target = NodeTarget(self.name, node, self._archive(), "application/json")
        address = self._target.start()
        headers = {name.lower(): value for name, value in address.headers.items() if name.lower() != "content-type"}
        return endpoint_of(address.url, headers)

    def pids(self) -> Sequence[int]:
        """The node's process."""
        return self._target.pids().get("server", []) if self._target is not None else []

    def stop(self) -> None:
        """End the node."""
        if self._target is not None:
            self._target.stop()

    def _archive(self) -> Path:
        config = write_stock_config(self._folder / "model-config.yaml", self._serving, self._model.threads)
        source = self._model.folder
        files = [source / "task.json", SERVERS / "tasks.py", SERVERS / "network.py"]
        files += [source / name for name in ("model.py", "model.safetensors") if (source / name).is_file()]
        if (source / "encoder").is_dir():
            files += sorted((source / "encoder").iterdir())
        return build_stock_archive("peer", "1.0", SERVERS / "stock_handler.py", files, self._folder, config)
