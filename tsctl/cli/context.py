"""Opens the project, the deployment and its nodes for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsctl.config.project import Project, find_project

if TYPE_CHECKING:
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.nodes.torchserve.node import Node


def open_deployment() -> tuple[Project, DeploymentSpec]:
    """The project and what its deployment.yaml says."""
    from tsctl.config.deployment import read_deployment

    project = find_project()
    return project, read_deployment(project.deployment)


def open_all_nodes(named: str | None) -> tuple[Project, DeploymentSpec, list[Node]]:
    """Every node, for a command that was given --all-nodes.

    Raises:
        SpecError: --node named one as well.
    """
    from tsctl.errors import SpecError
    from tsctl.nodes.torchserve.node import open_nodes

    if named is not None:
        raise SpecError(f"--all-nodes and --node {named} contradict each other", "Give one of the two.")
    project, deployment = open_deployment()
    return project, deployment, open_nodes(project, deployment)


def open_one_node(name: str | None) -> tuple[Project, DeploymentSpec, Node]:
    """The node of that name, or the only one."""
    from tsctl.nodes.torchserve.node import open_node

    project, deployment = open_deployment()
    return project, deployment, open_node(project, *deployment.node(name))
