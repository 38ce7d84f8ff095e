"""The places whose records a project reads: the folders of its nodes on this machine, and the shared one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.remote import absolute
from tsctl.nodes.node import Node
from tsctl.records.database import Place
from tsctl.records.shared import SharedPlace


def labels_folder(project: Project) -> Path:
    """Where labels are kept."""
    return project.state / "labels"


def places_of(nodes: Iterable[Node], shared: str | None) -> list[Place]:
    """The folders of those of the nodes that are on this machine, and the shared place where there is one.

    Args:
        shared: the address of a SharedPlace; None: each node keeps its own.

    Raises:
        AnalysisError: the shared place does not answer.
    """
    own = [Place(node.name, str(node.records_folder.resolve())) for node in nodes if node.is_here]
    return [*own, *(SharedPlace(shared).places() if shared else [])]


def shared_address(project: Project, deployment: DeploymentSpec) -> str | None:
    """The address of the shared place that deployment.yaml names; None where it names none."""
    shared = deployment.records.shared
    return None if shared is None else absolute(shared, project.root)


def require_here(nodes: Iterable[Node], names: Collection[str]) -> None:
    """Raises NodeError where one of the named nodes is on another machine, so that its records cannot be read."""
    away = sorted(node.name for node in nodes if node.name in names and not node.is_here)
    if away:
        raise NodeError(
            f"node {', '.join(away)} is on another machine, and its records are read only there",
            "Leave 'shadow' out of the rollout policy, or compare with 'tsctl shadow report --from' a shared folder.",
        )
