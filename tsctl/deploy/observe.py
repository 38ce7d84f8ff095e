"""Reads the actual state from those who own it: every node at once, Envoy, and the rollout journal."""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.state import Actual, GatewayState
from tsctl.gateway.state import Gateway, open_gateway, traffic_in_force
from tsctl.nodes.observe import observe
from tsctl.nodes.torchserve.node import Node, open_nodes
from tsctl.rollout.run.journal import unfinished


@dataclass(frozen=True)
class Owners:
    """Who is asked, and who is told what to do."""

    project: Project
    deployment: DeploymentSpec
    nodes: tuple[Node, ...]
    gateway: Gateway | None  # None: deployment.yaml has none

    def named(self, names: tuple[str, ...]) -> list[Node]:
        """The nodes of those names, in their order in deployment.yaml."""
        return [node for node in self.nodes if node.name in names]


def open_owners(project: Project, deployment: DeploymentSpec) -> Owners:
    """The nodes and the gateway of deployment.yaml; nothing is asked yet."""
    gateway = open_gateway(project, deployment) if deployment.gateway is not None else None
    return Owners(project, deployment, tuple(open_nodes(project, deployment)), gateway)


def actual_state(owners: Owners) -> Actual:
    """What is now; a node that does not answer is there with its reason.

    Raises:
        GatewayError: Envoy runs, and does not tell what it does.
        AnalysisError: the journal of a rollout is damaged.
    """
    nodes = tuple(observe(owners.nodes))
    gateway = _gateway_state(owners.gateway) if owners.gateway else None
    found = Actual(nodes, gateway)
    ids = {model: unfinished(owners.project, model) for model in {*owners.deployment.models, *found.models}}
    return Actual(nodes, gateway, {model: id_ for model, id_ in ids.items() if id_ is not None})


def _gateway_state(gateway: Gateway) -> GatewayState:
    is_live = gateway.admin.is_live()
    return GatewayState(is_live, {one.model: one for one in traffic_in_force(gateway)})
