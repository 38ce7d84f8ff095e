"""Opens the project, the deployment, its nodes and its gateway for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsctl.config.project import Project, find_project

if TYPE_CHECKING:
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.gateway.state import Gateway
    from tsctl.nodes.node import Node


def open_deployment() -> tuple[Project, DeploymentSpec]:
    """The project and its deployment.yaml."""
    from tsctl.config.deployment import read_deployment

    project = find_project()
    return project, read_deployment(project.deployment)


def select_nodes(name: str | None, all_nodes: bool) -> tuple[Project, DeploymentSpec, list[Node]]:
    """The nodes that --node and --all-nodes select: every node, the named one, or the only one.

    Raises:
        SpecError: both were given, or several nodes exist and neither was.
    """
    from tsctl.errors import SpecError
    from tsctl.nodes.engines import open_node, open_nodes

    if all_nodes and name is not None:
        raise SpecError(f"--all-nodes and --node {name} contradict each other", "Give one of the two.")
    project, deployment = open_deployment()
    if all_nodes:
        return project, deployment, open_nodes(project, deployment)
    return project, deployment, [open_node(project, *deployment.node(name))]


def open_one_node(name: str | None) -> tuple[Project, DeploymentSpec, Node]:
    """The node of that name, or the only one."""
    project, deployment, nodes = select_nodes(name, all_nodes=False)
    return project, deployment, nodes[0]


def open_gateway_here() -> Gateway:
    """The gateway of the project in the working folder."""
    from tsctl.gateway.state import open_gateway

    return open_gateway(*open_deployment())


def absent_json(gateway: Gateway | None) -> dict[str, dict[str, str]]:
    """Of several gateways, those that did not take the change, and why; for a command's JSON. None: a cluster's."""
    return {"absent": dict(gateway.shared.absent)} if gateway is not None and gateway.shared is not None else {}


def say_absent(gateway: Gateway | None) -> None:
    """A line on standard error for each of these gateways."""
    if gateway is None or gateway.shared is None:
        return
    import typer

    from tsctl.gateway.shared.control import describe

    for line in describe(gateway.shared.absent):
        typer.echo(line, err=True)


def open_local_gateway() -> Gateway:
    """The gateway of this machine, which may be one of several."""
    from tsctl.gateway.state import open_local

    return open_local(*open_deployment())
