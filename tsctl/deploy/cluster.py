"""Plans for a cluster: the weights of deployment.yaml, and those of the HTTPRoutes. `plan_routes` is pure.

Pods and routes are made by those who apply manifests. What of them is missing is refused, with what to apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tsctl.config.deployment import DeploymentSpec, ModelTarget
from tsctl.deploy.changes import GATEWAY, Change, Plan, PlanOptions, Refusal, SetWeights, Unmanaged
from tsctl.deploy.preconditions import rollouts
from tsctl.deploy.state import Actual, GatewayState
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.gateway.kubernetes.names import model_name, version_name
from tsctl.gateway.traffic import Traffic, weights_text

_RENDER = "tsctl render kubernetes --to DIR, kubectl apply -k DIR"


@dataclass(frozen=True)
class ObservedCluster:
    """What a cluster has of the models of deployment.yaml, and of others with a route."""

    routes: Mapping[str, Traffic]  # by model
    ready: Mapping[tuple[str, str], int]  # ready pods of each version that has a Deployment
    rollouts: Actual = field(default_factory=lambda: Actual(()))  # only its rollouts


def observe_cluster(deployment: DeploymentSpec, routes: HttpRoutes, unfinished: Actual) -> ObservedCluster:
    """The cluster now; errors as those of `HttpRoutes`."""
    ready = {
        (model, version): pods for model in deployment.models for version, pods in routes.all_ready_pods(model).items()
    }
    return ObservedCluster(routes.traffic(), ready, unfinished)


def require_no_pruning(options: PlanOptions) -> None:
    """SpecError where objects of a cluster were to be removed."""
    if options.prune or options.prune_models:
        raise SpecError(
            "--prune and --prune-models remove versions and routes of this machine's gateway",
            "On a cluster, remove them from deployment.yaml, render, and delete their objects with kubectl.",
        )


def plan_routes(deployment: DeploymentSpec, cluster: ObservedCluster) -> Plan:
    """The changes of weights that make the HTTPRoutes those of deployment.yaml."""
    changes: list[Change] = []
    refused: list[Refusal] = []
    for model, target in deployment.models.items():
        route = cluster.routes.get(model)
        refused += _missing(model, target, cluster)
        if route is None or target.shares is None:
            continue
        weights = {version: share for version, share in target.shares.items() if share}
        if weights != route.shares:
            changes.append(SetWeights(model, weights, route))
            refused += _cold(model, weights, route, cluster)
    unfinished = replace(cluster.rollouts, gateway=GatewayState(True, cluster.routes))
    refused += rollouts(unfinished, changes, PlanOptions())
    unmanaged = [
        Unmanaged(
            model, None, GATEWAY, f"a route, {weights_text(route.shares)}",
            f"kubectl delete httproute {model_name(model)} removes it",
        )
        for model, route in cluster.routes.items()
        if model not in deployment.models
    ]  # fmt: skip
    return Plan(tuple(changes), tuple(refused), tuple(unmanaged))


def _missing(model: str, target: ModelTarget, cluster: ObservedCluster) -> Iterator[Refusal]:
    """The cluster has every version that deployment.yaml names, and a route for the model."""
    for version in target.versions:
        if (model, version) not in cluster.ready:
            reason = f"the cluster has no Deployment of {model} {version}"
            yield Refusal(model, version, (GATEWAY,), reason, f"Apply its manifests: {_RENDER}", GatewayError)
    if model not in cluster.routes:
        reason, hint = f"the cluster has no HTTPRoute of {model}", f"Apply it: {_RENDER}/routes"
        yield Refusal(model, None, (GATEWAY,), reason, hint, GatewayError)


def _cold(model: str, weights: Mapping[str, int], route: Traffic, cluster: ObservedCluster) -> Iterator[Refusal]:
    """A version that gets its first requests has a ready pod."""
    for version in weights:
        if not route.weights.get(version) and cluster.ready.get((model, version)) == 0:
            reason = f"no pod of {model} {version} is ready, so it cannot get weight"
            hint = f"See kubectl describe deployment {version_name(model, version)}"
            yield Refusal(model, version, (GATEWAY,), reason, hint, GatewayError)
