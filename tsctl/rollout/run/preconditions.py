"""Refuses a rollout that cannot begin: what must be true of routes, weights and counts before it."""

from __future__ import annotations

from collections.abc import Collection

from tsctl.archive.inspect import facts_of
from tsctl.archive.store import StoredArchive
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError, ConflictError, GatewayError, SpecError
from tsctl.gateway.counters import Sample
from tsctl.gateway.state import Gateway, require_live, require_route, traffic_in_force
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.records.database import require
from tsctl.records.places import require_here
from tsctl.rollout.evidence.several import together
from tsctl.rollout.evidence.source import EnvoyCounters, open_source
from tsctl.rollout.evidence.totals import requests_of
from tsctl.rollout.run.health import nodes_of


def counts_before(gateway: Gateway, policy: RolloutPolicy, model: str) -> dict[str, list[Sample]]:
    """The counts before the rollout, which are no evidence, of each Envoy.

    Raises:
        AnalysisError: Prometheus does not have them yet, and would have them later as if they were new.
    """
    parts = open_source(policy, gateway.admin).parts(model)
    if policy.prometheus and not requests_of(together(parts), model):
        counted = requests_of(EnvoyCounters(gateway.admin).samples(model), model)
        if counted:
            raise AnalysisError(
                f"Prometheus at {policy.prometheus} has no request of {model}, and the gateway counted {counted:,}",
                f"Does it scrape {gateway.spec.metrics}/metrics? A server that has just started needs a while.",
            )
    return parts


def require_counted(gateway: Gateway, model: str, sticky: str, is_text: bool) -> None:
    """Raises SpecError where evidence comes from the access log, which of several gateways each has on its machine."""
    reason = "its route divides users" if sticky else "it is a language model" if is_text else ""
    if gateway.shared is not None and reason:
        raise SpecError(
            f"{model} cannot be released through several gateways: {reason}, so each line of the access log is needed",
            "Give the deployment one gateway for it, or set the weights by hand: tsctl weights set.",
        )


def route_of(gateway: Gateway, model: str) -> Traffic:
    """The model's route in force.

    Raises:
        GatewayError: the gateway does not run, or has no route for the model.
    """
    require_live(gateway)
    return require_route(traffic_in_force(gateway), model)


def require_no_weights(deployment: DeploymentSpec, model: str) -> None:
    """Raises SpecError where deployment.yaml does not name the model, or sets its weights."""
    target = deployment.models.get(model)
    if target is None:
        raise SpecError(
            f"deployment.yaml does not name {model}, so it has no route and no policy for it",
            f"It names {', '.join(deployment.models) or 'no model'}.",
        )
    if target.weights is not None:
        raise SpecError(
            f"deployment.yaml sets the weights of {model}, which a rollout changes",
            f"Remove models.{model}.weights, or 'tsctl apply' would set them back.",
        )


def require_undivided(route: Traffic, version: str) -> None:
    """Raises ConflictError where the version is stable already, or stable has not all requests."""
    require_not_stable(route, version)
    if route.weights[route.stable] != TOTAL:
        raise ConflictError(
            f"the requests of {route.model} are divided by hand: {weights_text(route.weights)}",
            f"Give stable all requests first: tsctl weights set {route.model} {route.stable}=100%",
        )


def require_not_stable(route: Traffic, version: str) -> None:
    """Raises ConflictError where the version is stable already."""
    if version == route.stable:
        raise ConflictError(f"{route.model} {version} is stable already, so there is nothing to release")


def require_possible(gateway: Gateway, archive: StoredArchive, version: str, nodes: Collection[str]) -> None:
    """Raises SpecError where the engine of one of the nodes cannot serve the archive as this version."""
    for node in gateway.nodes():
        if node.name in nodes and (reason := node.cannot(archive, version)):
            raise SpecError(
                f"{archive.model} {version} cannot be on node {node.name}: {reason}",
                f"Name its nodes in deployment.yaml: models.{archive.model}.versions.{version!r}.nodes",
            )


def generates_text(archive: StoredArchive) -> bool:
    """Whether the archive's model is a language model, which answers with text."""
    return facts_of(archive.path).is_text


def require_comparable(
    gateway: Gateway, route: Traffic, canary: StoredArchive, stable: StoredArchive, nodes: Collection[str]
) -> None:
    """The answers of both versions can be compared before the first step.

    Args:
        nodes: that serve one of the versions.

    Raises:
        ConflictError: another version is the route's shadow.
        SpecError: an archive records nothing, or what reads records is not installed.
        NodeError: a node is on another machine.
    """
    if route.shadow is not None and route.shadow.version != canary.version:
        raise ConflictError(
            f"requests of {route.model} are copied to {route.shadow.version} already, and a route has one shadow",
            f"Stop that first: tsctl shadow clear {route.model}",
        )
    for archive in (stable, canary):
        records = facts_of(archive.path).serving.records
        if records is None or not records.share:
            raise SpecError(
                f"{archive.model} {archive.version} records no predictions, and the policy compares them (shadow)",
                f"Set records in archives/{archive.model}/archive.yaml and build it again, or leave shadow out.",
            )
    require("duckdb")
    require_here(gateway.nodes(), nodes)


def serving_nodes(gateway: Gateway, model: str, version: str) -> tuple[str, ...]:
    """Names of the nodes that serve stable; raises GatewayError where there are none."""
    names = nodes_of(gateway, model, version)
    if not names:
        raise GatewayError(f"no node serves {model} {version}, which is stable", "See 'tsctl status'.")
    return names
