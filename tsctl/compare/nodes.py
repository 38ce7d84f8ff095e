"""Nodes of every engine as contenders: each on free ports, in a project of its own that is removed afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from tsctl.archive.store import StoredArchive, import_archive
from tsctl.compare.contender import Endpoint, endpoint_of
from tsctl.config.nodes import TRITON, BaseNodeSpec, NodeSpec, TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import SpecError
from tsctl.host.ports import free_ports
from tsctl.host.progress import quiet_progress
from tsctl.nodes.engines import MODULES, open_node
from tsctl.nodes.node import Node

_QUIET = quiet_progress()
_SPECS: TypeAdapter[BaseNodeSpec] = TypeAdapter(NodeSpec)


class NodeContender:
    """One engine's node with one version of one model.

    Args:
        own: a project whose store has the archive.
        workers: of the version; None: as the archive says.
    """

    def __init__(self, own: Project, engine: str, archive: StoredArchive, workers: int | None) -> None:
        self.name = engine
        self._project = own
        self._archive = archive
        self._workers = workers
        self._node: Node | None = None
        self._starts = 0

    @property
    def unavailable(self) -> str:
        """Why the engine cannot serve the archive at all."""
        return self._open().cannot(self._archive, self._archive.version)

    def start(self) -> Endpoint:
        """Start a node that has never served anything, and register the version."""
        self._starts += 1
        node = self._node = self._open()
        node.start(self._project, _QUIET)
        model, version = self._archive.key
        node.register(self._archive, version, self._workers, lambda _: None)
        endpoint = endpoint_of(node.url(model, version) + node.path(model, version), node.access())
        return replace(endpoint, unwrap=node.unwrap, is_enveloped=node.protocol == TRITON)

    def pids(self) -> Sequence[int]:
        """The process of the node."""
        pid = self._node.pid if self._node is not None else None
        return [pid] if pid is not None else []

    def stop(self) -> None:
        """End the node and its workers."""
        node, self._node = self._node, None
        if node is not None:
            node.stop(_QUIET)

    def _open(self) -> Node:
        return open_node(self._project, f"{self.name}-{self._starts}", free_spec(self.name))


def free_spec(engine: str) -> BaseNodeSpec:
    """A node of this engine on free ports of this machine.

    Raises:
        SpecError: there is no such engine.
    """
    if engine not in MODULES:
        raise SpecError(f"there is no engine {engine}", f"There are {', '.join(MODULES)}.")
    first, *others = (f"http://127.0.0.1:{port}" for port in free_ports(3))
    if engine == "torchserve":
        inference, (management, metrics) = first, others
        low, high = free_ports(2)
        return TorchServeSpec(inference=inference, management=management, metrics=metrics, grpc_ports=(low, high))
    return _SPECS.validate_python({"engine": engine, "address": first})


def own_project(project: Project, folder: Path) -> Project:
    """Make a project in an empty folder, with the node settings and the installed engines of the real one."""
    own = Project(folder)
    own.store.mkdir(parents=True)
    for source, target in (
        (project.config_properties, own.config_properties),
        (project.log_config, own.log_config),
    ):
        if source.is_file():
            shutil.copyfile(source, target)
    installed = project.state / "engines"
    if installed.is_dir():
        own.state.mkdir(mode=0o700)
        (own.state / "engines").symlink_to(installed.resolve())
    return own


def node_contenders(
    project: Project, folder: Path, archive: Path, engines: Sequence[str], workers: int | None
) -> list[NodeContender]:
    """A contender for each engine.

    Args:
        folder: empty; the nodes' files are written there.
        workers: as in NodeContender.

    Raises:
        ArchiveError: the archive cannot be read.
        SpecError: there is no such engine.
    """
    own = own_project(project, folder)
    stored = import_archive(own, archive)
    return [NodeContender(own, engine, stored, workers) for engine in engines]


def engines() -> list[str]:
    """Every engine that tsctl knows, installed or not."""
    return list(MODULES)
