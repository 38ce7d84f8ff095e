"""Opens the nodes of deployment.yaml, each as its engine's class; the only module that knows all engines.

An engine's module is imported when a node of it is opened, so a command needs only the packages of engines in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import BaseNodeSpec
from tsctl.config.project import Project
from tsctl.nodes.node import Node
from tsctl.nodes.record import running_record, unnamed_running

#: Seconds for a node to describe its state.
READ_TIMEOUT_S = 10.0
#: The module of each engine.
MODULES = {
    "bentoml": "tsctl.nodes.bentoml.engine",
    "ray": "tsctl.nodes.ray.engine",
    "torchserve": "tsctl.nodes.torchserve.engine",
    "triton": "tsctl.nodes.triton.engine",
    "uvicorn": "tsctl.nodes.uvicorn.engine",
    "vllm": "tsctl.nodes.vllm.engine",
}


class EngineModule(Protocol):
    """What an engine's module offers."""

    def open_node(self, project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> Node:
        """The node; nothing is sent yet."""

    def served_at_start(self, folder: Path) -> Iterator[str]:
        """File names of the archives that a node with this folder serves again when it starts."""


def open_nodes(project: Project, deployment: DeploymentSpec, read_timeout_s: float = READ_TIMEOUT_S) -> list[Node]:
    """Every node of the deployment, in its order; nothing is sent yet."""
    return [open_node(project, name, spec, read_timeout_s) for name, spec in deployment.nodes.items()]


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float = READ_TIMEOUT_S) -> Node:
    """The node; nothing is sent yet.

    Args:
        read_timeout_s: for it to describe its state.
    """
    return _module(spec.engine).open_node(project, name, spec, read_timeout_s)


def open_to_stop(project: Project, deployment: DeploymentSpec, name: str | None) -> Node:
    """The node as it was started here, also where deployment.yaml describes it otherwise by now, or not any more.

    Args:
        name: None: the only one.

    Raises:
        SpecError: no node of this name is in deployment.yaml or runs here.
        NodeError: its record is damaged.
    """
    if name is not None and name in unnamed_running(project, deployment.nodes):
        started = _open_started(project, name)
        if started is not None:
            return started
    name, spec = deployment.node(name)
    started = _open_started(project, name) if spec.key_file is None else None
    return started or open_node(project, name, spec)


def _open_started(project: Project, name: str) -> Node | None:
    """The node that runs under this name, as it was started; None where none runs, or an older tsctl started it."""
    record = running_record(project.state / "nodes" / name)
    spec = record.node if record is not None else None
    return open_node(project, name, spec) if spec is not None else None


def served_at_start(project: Project) -> Iterator[tuple[str, str]]:
    """Names of nodes, in deployment.yaml or not, and of the archives that they serve again when they start."""
    for folder in sorted((project.state / "nodes").glob("*")):
        for engine in MODULES:
            yield from ((folder.name, archive) for archive in _module(engine).served_at_start(folder))


def _module(engine: str) -> EngineModule:
    return import_module(MODULES[engine])
