"""Reads the actual state from its owners: every node at once, Envoy, and the rollout journals."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.state import Actual, GatewayState
from tsctl.errors import AnalysisError
from tsctl.gateway.backend import is_on_cluster
from tsctl.gateway.kubernetes.backend import HttpRoutes, open_http_routes
from tsctl.gateway.state import Gateway, open_gateway, traffic_in_force
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.rollout.run.journal_files import unfinished


@dataclass(frozen=True)
class Owners:
    """The nodes and the gateway that are observed and changed; or the routes of a cluster, and then neither."""

    project: Project
    deployment: DeploymentSpec
    nodes: tuple[Node, ...]
    gateway: Gateway | None  # None: deployment.yaml has none
    routes: HttpRoutes | None = None  # None: no cluster carries the traffic


def open_owners(project: Project, deployment: DeploymentSpec) -> Owners:
    """The nodes and the gateway of deployment.yaml, or its cluster; nothing is asked yet."""
    if deployment.kubernetes is not None and is_on_cluster(deployment):
        return Owners(project, deployment, (), None, open_http_routes(deployment, deployment.kubernetes))
    gateway = open_gateway(project, deployment) if deployment.gateway is not None else None
    return Owners(project, deployment, tuple(open_nodes(project, deployment)), gateway)


def actual_state(owners: Owners) -> Actual:
    """The state of nodes, gateway and rollouts now; a node that does not answer has its reason.

    Raises:
        GatewayError: Envoy runs, and does not answer.
    """
    gateway = None
    if owners.gateway is not None:
        gateway = _gateway_state(owners.gateway)
    actual = Actual(tuple(observe(owners.nodes)), gateway)
    return with_rollouts(owners, actual)


def with_rollouts(owners: Owners, actual: Actual) -> Actual:
    """The same, with the rollouts that have not ended."""
    rollouts: dict[str, str] = {}
    unknown: dict[str, AnalysisError] = {}
    for model in sorted({*owners.deployment.models, *actual.models}):
        try:
            if (name := unfinished(owners.project, model)) is not None:
                rollouts[model] = name
        except AnalysisError as error:  # it bars the changes of this model, and no other's
            unknown[model] = error
    return replace(actual, rollouts=rollouts, unknown_rollouts=unknown)


def _gateway_state(gateway: Gateway) -> GatewayState:
    if gateway.shared is None:
        return GatewayState(gateway.admin.is_live(), traffic_in_force(gateway))
    head, silent = gateway.shared.head(), gateway.shared.silent()
    is_behind = head.deployment != gateway.project.deployment.read_text(encoding="utf-8")
    return GatewayState(gateway.admin.is_live(), head.routes, silent, is_behind)
