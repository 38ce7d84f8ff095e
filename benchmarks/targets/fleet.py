"""A fleet: nodes of a benchmark's own behind a gateway, which serve versions of benchmarks/archives."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ARCHIVES
from benchmarks.harness.client import Address
from benchmarks.harness.commands import require_tsctl
from benchmarks.harness.processes import children
from benchmarks.targets.project import request_headers
from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.store import StoredArchive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.archive import read_archive_spec
from tsctl.config.deployment import read_deployment
from tsctl.config.nodes import BaseNodeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.start import local_key
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.gateway.sync import sync
from tsctl.host.ports import free_ports
from tsctl.host.progress import Progress
from tsctl.nodes.environments import ENGINES, require_environment
from tsctl.nodes.node import Node

JSON = "application/json"
MODEL = "paced"
#: The body that clients send. A bad version fails on it, and not on the archive's sample, which health checks send.
BODY = b'{"x": 7}'
#: The name of a node with the lowest priority.
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
        return Address(node.spec.url + node.path(model, version), request_headers(node, JSON))

    def register(self, model: str, version: str, nodes: Sequence[Node]) -> None:
        """Serve the version on these nodes with one worker each, and tell the gateway."""
        for node in nodes:
            node.register(self.archives[model, version], version, 1, lambda _: None)
        sync(self.gateway)

    def kill_node(self, node: Node) -> None:
        """Send SIGKILL to the node's process and its workers."""
        pids = [node.pid, *children(node.pid)] if node.pid else []
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def kill_worker(self, node: Node, model: str, version: str) -> None:
        """Send SIGKILL to the version's worker on the node."""
        os.kill(node.require_version(model, version).pids[0], signal.SIGKILL)

    def is_in_rotation(self, node: Node, model: str, version: str) -> bool:
        """Whether the gateway sends requests for the version to the node."""
        place = node.spec.url.removeprefix("http://")
        hosts = self.gateway.admin.hosts()[cluster_name(model, version)]
        return any(host.address == place and host.is_healthy for host in hosts)

    def start_again(self, node: Node) -> None:
        """Start a killed node; it restores its models."""
        require_tsctl(self.project, "node", "start", "--node", node.name)


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
    engine: str = "torchserve",
    tracing: Mapping[str, Any] | None = None,
) -> Iterator[Fleet]:
    """Nodes that serve these versions behind a gateway while the block runs.

    Args:
        nodes: how many.
        served: model and version; the first of each model is stable and has all traffic.
        spare: versions that are built, for `register`.
        route: as in deployment.yaml, for every model.
        shadows: whether there is also a node SHADOWS, which serves nothing yet.
        engine: of the nodes; shadows are on TorchServe.
        tracing: as in deployment.yaml.
    """
    own = own_project(project, folder)
    archives = _built(project, own, [*served, *spare], progress)
    specs: dict[str, BaseNodeSpec] = {f"n{number}": free_spec(engine) for number in range(nodes)}
    if shadows:
        specs[SHADOWS] = free_spec("torchserve").model_copy(update={"nice": 19})
    with running(own, specs, archives, served, progress, route or {}, tracing=tracing) as fleet:
        yield fleet


@contextmanager
def running(
    own: Project,
    specs: Mapping[str, BaseNodeSpec],
    archives: dict[tuple[str, str], StoredArchive],
    served: Sequence[tuple[str, str]],
    progress: Progress,
    route: dict[str, Any],
    rollout: dict[str, Any] | None = None,
    targets: Mapping[tuple[str, str], dict[str, Any]] | None = None,
    tracing: Mapping[str, Any] | None = None,
) -> Iterator[Fleet]:
    """A project's nodes serve these versions behind its gateway while the block runs.

    Args:
        archives: of all versions, in the project's store.
        served, route: as in `running_fleet`.
        rollout, tracing: as in deployment.yaml.
        targets: what deployment.yaml says of versions, served or not, such as their nodes; by model and version.
    """
    _write_deployment(own, specs, served, route, rollout or {}, targets or {}, tracing)
    gateway = open_gateway(own, read_deployment(own.deployment))

    def serving(node: Node) -> list[StoredArchive]:
        models = gateway.deployment.models
        return [archives[pair] for pair in served if node.name != SHADOWS and models[pair[0]].is_on(pair[1], node.name)]

    try:
        with progress.step(f"starting {len(specs)} nodes"), ThreadPoolExecutor(len(specs)) as pool:
            list(pool.map(lambda node: _start(own, node, serving(node)), gateway.nodes()))
        with progress.step("starting the gateway"):
            require_tsctl(own, "gateway", "start")
            key = local_key(gateway).read_text(encoding="utf-8").strip().partition(": ")[2]
        yield Fleet(own, gateway, archives, key)
    finally:
        require_tsctl(own, "gateway", "stop")
        with ThreadPoolExecutor(len(specs)) as pool:
            list(pool.map(lambda node: require_tsctl(own, "node", "stop", "--node", node.name), gateway.nodes()))


def missing_engine(project: Project, engine: str) -> str:
    """Why the engine cannot be used, with the command that installs it; empty where it can."""
    if engine not in ENGINES:
        return ""
    try:
        require_environment(project, engine)
    except NodeError as error:
        return f"{error.message}. {error.hint}"
    return ""


def _start(own: Project, node: Node, archives: Sequence[StoredArchive]) -> None:
    require_tsctl(own, "node", "start", "--node", node.name)
    for archive in archives:
        node.register(archive, archive.version, 1, lambda _: None)


def _built(
    project: Project, own: Project, wanted: Sequence[tuple[str, str]], progress: Progress
) -> dict[tuple[str, str], StoredArchive]:
    archives = {}
    with progress.step("building the archives") as step:
        for model, version in wanted:
            copied = own.archives / model
            if not copied.is_dir():
                shutil.copytree(ARCHIVES / model, copied)
            spec = read_archive_spec(copied / "archive.yaml")
            make_golden(copied, spec, version, step.note)
            archives[model, version] = build_version(own, copied, spec, version, step.note).archive
    return archives


def _write_deployment(
    own: Project,
    nodes: Mapping[str, BaseNodeSpec],
    served: Sequence[tuple[str, str]],
    route: dict[str, Any],
    rollout: dict[str, Any],
    targets: Mapping[tuple[str, str], dict[str, Any]],
    tracing: Mapping[str, Any] | None,
) -> None:
    models: dict[str, Any] = {}
    for model, version in served:
        models.setdefault(model, {"default": version, "versions": {}, "route": route})
        models[model]["versions"][version] = {"workers": 1}
    for (model, version), target in targets.items():
        models[model]["versions"].setdefault(version, {"workers": 1}).update(target)
    address, metrics = free_ports(2)
    content = {
        "nodes": {name: spec.model_dump(mode="json") for name, spec in nodes.items()},
        "gateway": {
            "address": f"http://127.0.0.1:{address}",
            "metrics": f"http://127.0.0.1:{metrics}",
            "budget": {"requests_per_s": 1_000_000, "burst": 1_000_000},
        },
        "models": models,
        "rollout": rollout,
        **({"tracing": dict(tracing)} if tracing else {}),
    }
    own.deployment.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
