"""Archives on a node of the benchmark's own; versions with the same settings share one node, and so one JVM."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rich.console import Console

from benchmarks.harness.client import Address
from benchmarks.harness.processes import children
from benchmarks.targets.project import request_headers
from tsctl.archive.store import StoredArchive, import_archive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.project import Project
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.engine import open_node
from tsctl.nodes.torchserve.properties import render_properties
from tsctl.nodes.torchserve.settings import node_defaults
from tsctl.nodes.torchserve.start import start_node, stop_node

#: Properties of this project that a node with TorchServe's own defaults has too: with other tokens or metrics it would
#: do other work for each request.
SHARED_PROPERTIES = (
    "disable_token_authorization",
    "token_expiration_min",
    "enable_model_api",
    "metrics_mode",
    "disable_system_metrics",
)


class BenchmarkNode:
    """A node with a project and a store in `folder`."""

    def __init__(self, project: Project, folder: Path, is_default: bool = False) -> None:
        """
        Args:
            is_default: TorchServe's own defaults in place of this project's config.properties, but for
                SHARED_PROPERTIES and the quiet logs.
        """
        self.project = own_project(project, folder)
        if is_default:
            properties = node_defaults(self.project)
            kept = {name: properties[name] for name in SHARED_PROPERTIES if name in properties}
            self.project.config_properties.write_text(render_properties(kept), encoding="utf-8")
        self.node = open_node(self.project, "bench", free_spec("torchserve"))
        self._quiet = Progress(Console(quiet=True))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node without models; does nothing where it runs already."""
        if self.node.pid is None:
            self._process = start_node(self.project, self.node, self._quiet)
            self.node.paths.pending_restore.unlink(missing_ok=True)  # models of an earlier run

    def stop(self) -> None:
        """End the node and its workers; does nothing where it does not run."""
        stop_node(self.node, self._quiet)
        process, self._process = self._process, None
        if process is not None:
            process.wait()


class NodeTarget:
    """An archive on a node."""

    def __init__(self, name: str, host: BenchmarkNode, archive: Path, media_type: str, workers: int = 1) -> None:
        self.name = name
        self.host = host
        self.archive: StoredArchive = import_archive(host.project, archive)
        self.media_type = media_type
        self._workers = workers

    def start(self) -> Address:
        self.host.start()
        versions.register(self.host.node, self.archive, self._workers, lambda _: None)
        path = f"/predictions/{self.archive.model}/{self.archive.version}"
        return Address(self.host.node.spec.inference + path, request_headers(self.host.node, self.media_type))

    def pids(self) -> dict[str, list[int]]:
        pid = self.host.node.pid
        return {"server": [pid], "workers": children(pid)} if pid is not None else {}

    def stop(self) -> None:
        self.host.stop()
