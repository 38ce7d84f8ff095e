"""Nodes and a gateway of a benchmark's own, with the archives of benchmarks/archives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ARCHIVES
from benchmarks.harness.client import Address
from benchmarks.harness.processes import children
from benchmarks.targets.own_project import free_node, free_port, own_project, request_headers
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.store import StoredArchive
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import NodeSpec, read_deployment
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.errors import NodeError
from tsctl.gateway.change import sync
from tsctl.gateway.start import local_key
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.node import Node

JSON = "application/json"
COMMAND_S = 180
MODEL = "paced"
#: What clients send; a bad version is bad at it, and not at the archive's sample, which health checks send.
BODY = b'{"x": 7}'
#: A node that takes what processor time the others leave.
SHADOWS = "shadows"


@dataclass
class Fleet:
    """Running nodes behind a running gateway."""

    project: Project
    gateway: Gateway
    archives: dict[tuple[str, str], StoredArchive]
    key: str

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

    def register(self, model: str, version: str, nodes: Sequence[Node]) -> None:
        """These nodes serve the version with one worker, and the gateway knows it."""
        for node in nodes:
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
        _tsctl(self.project, "node", "start", "--node", node.name)


@contextmanager
def running_fleet(
    project: Project,
    folder: Path,
    nodes: int,
    served: Sequence[tuple[str, str]],
    progress: Progress,
    route: dict[str, Any] | None = None,
    spare: Sequence[tuple[str, str]] = (),
    shadows: bool = False,
) -> Iterator[Fleet]:
    """So many nodes that serve these versions, behind a gateway, while the block runs.

    Args:
        served: model and version; of each model the first one is stable, with everything.
        spare: versions that are built, for `register`.
        route: as in deployment.yaml, for every model.
        shadows: whether there is a node SHADOWS besides, which serves nothing yet.
    """
    own = own_project(project, folder)
    archives = _built(project, own, [*served, *spare], progress)
    specs = {f"n{number}": free_node() for number in range(nodes)}
    if shadows:
        specs[SHADOWS] = free_node().model_copy(update={"nice": 19})
    with running(own, specs, archives, served, progress, route or {}) as fleet:
        yield fleet


@contextmanager
def running(
    own: Project,
    specs: Mapping[str, NodeSpec],
    archives: dict[tuple[str, str], StoredArchive],
    served: Sequence[tuple[str, str]],
    progress: Progress,
    route: dict[str, Any],
    rollout: dict[str, Any] | None = None,
) -> Iterator[Fleet]:
    """A project's nodes serve these versions behind its gateway while the block runs.

    Args:
        archives: of all versions, in the project's store.
        served, route: as in `running_fleet`.
        rollout: as in deployment.yaml.
    """
    _write_deployment(own, specs, served, route, rollout or {})
    gateway = open_gateway(own, read_deployment(own.deployment))
    serving = [archives[pair] for pair in served]
    try:
        with progress.step(f"starting {len(specs)} nodes"), ThreadPoolExecutor(len(specs)) as pool:
            list(pool.map(lambda node: _start(own, node, serving if node.name != SHADOWS else ()), gateway.nodes()))
        with progress.step("starting the gateway"):
            _tsctl(own, "gateway", "start")
            key = local_key(gateway).read_text(encoding="utf-8").strip().partition(": ")[2]
        yield Fleet(own, gateway, archives, key)
    finally:
        _tsctl(own, "gateway", "stop")
        for node in gateway.nodes():
            _tsctl(own, "node", "stop", "--node", node.name)


def _start(own: Project, node: Node, archives: Sequence[StoredArchive]) -> None:
    _tsctl(own, "node", "start", "--node", node.name)
    for archive in archives:
        versions.register(node, archive, 1, lambda _: None)


def _tsctl(own: Project, *arguments: str) -> None:
    """Run a command as a person would: what it starts is not this process's child.

    Raises:
        NodeError: it failed.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "tsctl.cli.main", *arguments],
        env={**os.environ, PROJECT_VARIABLE: str(own.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    if ended.returncode != 0:
        raise NodeError(f"tsctl {' '.join(arguments)} failed: {ended.stderr.strip()[-500:]}")


def _built(
    project: Project, own: Project, wanted: Sequence[tuple[str, str]], progress: Progress
) -> dict[tuple[str, str], StoredArchive]:
    found = {}
    with progress.step("building the archives") as step:
        for model, version in wanted:
            copied = own.archives / model
            if not copied.is_dir():
                shutil.copytree(ARCHIVES / model, copied)
            spec = read_archive_spec(copied / "archive.yaml")
            make_golden(copied, spec, version, step.note)
            found[model, version] = build_version(own, copied, spec, version, step.note).archive
    return found


def _write_deployment(
    own: Project,
    nodes: Mapping[str, NodeSpec],
    served: Sequence[tuple[str, str]],
    route: dict[str, Any],
    rollout: dict[str, Any],
) -> None:
    defaults: dict[str, str] = {}
    for model, version in served:
        defaults.setdefault(model, version)
    models: dict[str, Any] = {
        model: {
            "default": default,
            "versions": {version: {"workers": 1} for name, version in served if name == model},
            "route": route,
        }
        for model, default in defaults.items()
    }
    content = {
        "nodes": {name: spec.model_dump(mode="json") for name, spec in nodes.items()},
        "gateway": {
            "address": f"http://127.0.0.1:{free_port()}",
            "metrics": f"http://127.0.0.1:{free_port()}",
            "budget": {"requests_per_s": 1_000_000, "burst": 1_000_000},
        },
        "models": models,
        "rollout": rollout,
    }
    own.deployment.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
