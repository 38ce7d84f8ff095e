"""The versions that HTTPRoutes of a cluster give requests to, and their pods."""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.config.deployment import DeploymentSpec


@dataclass(frozen=True)
class ClusterVersion:
    """A version on the cluster.

    Args:
        weight: of its model, in hundredths of a percent; 0 for a shadow, and for a version that only has pods.
        pods: that can answer.
    """

    model: str
    version: str
    weight: int
    is_shadow: bool
    pods: int

    @property
    def is_ready(self) -> bool:
        """Whether what it is to answer finds a pod."""
        return bool(self.pods) or not (self.weight or self.is_shadow)


def cluster_status(deployment: DeploymentSpec) -> list[ClusterVersion]:
    """The versions of each model of deployment.yaml, in the order of the routes; none where no cluster has the traffic.

    Raises:
        GatewayError: the API server does not answer, or a route was changed so that it says no weights.
    """
    if deployment.kubernetes is None or not deployment.is_on_cluster:
        return []
    from tsctl.gateway.kubernetes.backend import open_http_routes

    routes = open_http_routes(deployment, deployment.kubernetes)
    found = []
    for model, traffic in routes.traffic().items():
        pods, shadow = routes.all_ready_pods(model), traffic.shadow.version if traffic.shadow else None
        for version in dict.fromkeys([*traffic.weights, *([shadow] if shadow else []), *pods]):
            weight = traffic.weights.get(version, 0)
            found.append(ClusterVersion(model, version, weight, version == shadow, pods.get(version, 0)))
    return found
