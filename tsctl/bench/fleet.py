"""Nodes and a gateway of a benchmark's own, with the archives of benchmarks/paced and benchmarks/linear."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tsctl import versions
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.spec import read_archive_spec
from tsctl.archive.store import StoredArchive
from tsctl.bench.own_node import free_node, free_port, own_project, request_headers
from tsctl.bench.processes import children
from tsctl.bench.ways import Address
from tsctl.deployment import read_deployment
from tsctl.gateway.change import sync
from tsctl.gateway.process import launch_keeper
from tsctl.gateway.start import local_key, start_gateway, stop_gateway
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.node.connection import Node
from tsctl.node.start import restore, start_node, stop_node
from tsctl.progress import Progress
from tsctl.project import Project

JSON = "application/json"
MODEL = "paced"
#: What clients send; a bad version is bad at it, and not at the archive's sample, which health checks send.
BODY = b'{"x": 7}'


@dataclass
class Fleet:
    """Running nodes behind a running gateway."""

    project: Project
    gateway: Gateway
    archives: dict[tuple[str, str], StoredArchive]
    key: str
    quiet: Progress = field(default_factory=lambda: Progress(Console(quiet=True)))

    @property
    def nodes(self) -> list[Node]:
        return self.gateway.nodes()

    def address(self, path: str) -> Address:
        """A route of the gateway."""
        return Address(self.gateway.spec.address + path, {"x-api-key": self.key, "Content-Type": JSON})

    def direct(self, model: str, version: str) -> Address:
        """The same version on the first node, past the gateway."""
        node = self.nodes[0]
        return Address(f"{node.spec.inference}/predictions/{model}/{version}", request_headers(node, JSON))

    def register(self, model: str, version: str) -> None:
        """Every node serves the version with one worker, and the gateway knows it."""
        for node in self.nodes:
            versions.register(node, self.archives[model, version], 1, lambda _: None)
        sync(self.gateway)

    def kill_node(self, node: Node) -> None:
        """SIGKILL to the node's process and its workers, all at once."""
        pids = [node.pid, *children(node.pid)] if node.pid else []
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def kill_worker(self, node: Node, model: str, version: str) -> None:
        """SIGKILL to the version's worker on the node."""
        [state] = node.client.describe(model, version)
        os.kill(state.workers[0].pid, signal.SIGKILL)

    def start_again(self, node: Node) -> None:
        """The node serves again what it served when it was killed."""
        start_node(self.project, node, self.quiet)
        restore(self.project, node, self.quiet, frozenset())


@contextmanager
def running_fleet(
    project: Project,
    folder: Path,
    nodes: int,
    served: Sequence[tuple[str, str]],
    progress: Progress,
    route: dict[str, Any] | None = None,
) -> Iterator[Fleet]:
    """So many nodes that serve these versions, behind a gateway, while the block runs.

    Args:
        served: model and version; of each model the first one is stable, with everything.
        route: as in deployment.yaml, for every model.
    """
    own = own_project(project, folder)
    defaults: dict[str, str] = {}
    for model, version in served:
        defaults.setdefault(model, version)
    archives = _built(project, own, list(defaults), progress)
    _write_deployment(own, nodes, served, defaults, route or {})
    gateway = open_gateway(own, read_deployment(own.deployment))
    quiet = Progress(Console(quiet=True))
    try:
        for node in gateway.nodes():
            with progress.step(f"starting node {node.name}"):
                start_node(own, node, quiet)
                for pair in served:
                    versions.register(node, archives[pair], 1, lambda _: None)
        with progress.step("starting the gateway"):
            start_gateway(gateway, quiet, with_keeper=False)
            launch_keeper(gateway)
            key = local_key(gateway).read_text(encoding="utf-8").strip().partition(": ")[2]
        yield Fleet(own, gateway, archives, key)
    finally:
        stop_gateway(gateway, quiet)
        for node in gateway.nodes():
            stop_node(node, quiet)


def _built(
    project: Project, own: Project, models: Sequence[str], progress: Progress
) -> dict[tuple[str, str], StoredArchive]:
    found = {}
    with progress.step("building the archives") as step:
        for model in models:
            copied = own.archives / model
            shutil.copytree(project.root / "benchmarks" / model, copied)
            spec = read_archive_spec(copied / "archive.yaml")
            for version in spec.versions:
                make_golden(copied, spec, version, step.note)
                found[model, version] = build_version(own, copied, spec, version, step.note).archive
    return found


def _write_deployment(
    own: Project,
    nodes: int,
    served: Sequence[tuple[str, str]],
    defaults: dict[str, str],
    route: dict[str, Any],
) -> None:
    models: dict[str, Any] = {
        model: {
            "default": default,
            "versions": {version: {"workers": 1} for name, version in served if name == model},
            "route": route,
        }
        for model, default in defaults.items()
    }
    content = {
        "nodes": {f"n{number}": free_node().model_dump(mode="json") for number in range(nodes)},
        "gateway": {
            "address": f"http://127.0.0.1:{free_port()}",
            "metrics": f"http://127.0.0.1:{free_port()}",
            "budget": {"requests_per_s": 1_000_000, "burst": 1_000_000},
        },
        "models": models,
    }
    own.deployment.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
