"""Who carries the traffic: Envoy by files on this machine, or HTTPRoutes on a cluster; those who decide do not care."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import SpecError
from tsctl.gateway import change
from tsctl.gateway.state import Gateway, open_gateway, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Traffic


class TrafficBackend(Protocol):
    """Keeps the traffic of every model's route, and is its only owner."""

    def is_live(self) -> bool:
        """Whether clients are answered by it now; False where it would only begin with what `traffic` says."""

    def traffic(self) -> dict[str, Traffic]:
        """The traffic of every route in force, by model."""

    def versions(self, model: str) -> Collection[str]:
        """The versions of the model that its route may name."""

    def set_weights(self, model: str, weights: Mapping[str, int]) -> Traffic:
        """The model's route has these weights, in force when this returns.

        Raises:
            GatewayError: a version is not known or cannot answer, or the change was refused; what was in force stays.
            ConflictError: somebody else changes the route.
        """

    def set_shadow(self, model: str, version: str | None, share: int) -> Traffic:
        """Copies of this share of the model's requests go to the version; None: to none. Errors as in `set_weights`."""


@dataclass(frozen=True)
class EnvoyFiles:
    """The gateway of this machine: documents that Envoy reads."""

    gateway: Gateway

    def is_live(self) -> bool:
        return self.gateway.admin.is_live()

    def traffic(self) -> dict[str, Traffic]:
        return traffic_in_force(self.gateway)

    def versions(self, model: str) -> Collection[str]:
        return {upstream.version for upstream in upstreams_written(self.gateway) if upstream.model == model}

    def set_weights(self, model: str, weights: Mapping[str, int]) -> Traffic:
        return change.set_weights(self.gateway, model, weights)

    def set_shadow(self, model: str, version: str | None, share: int) -> Traffic:
        return change.set_shadow(self.gateway, model, version, share)


def gateway_of(backend: TrafficBackend) -> Gateway | None:
    """The gateway, or all of several, that this backend is; None: it is another one."""
    return backend.gateway if isinstance(backend, EnvoyFiles) else None


def is_on_cluster(deployment: DeploymentSpec) -> bool:
    """Whether HTTPRoutes of a cluster carry the traffic."""
    return deployment.is_on_cluster


def require_own_traffic(deployment: DeploymentSpec, command: str, instead: str) -> None:
    """Raises SpecError where HTTPRoutes carry the traffic, and the command knows only that of tsctl's gateway."""
    if deployment.is_on_cluster:
        raise SpecError(
            f"{command} knows a gateway of tsctl alone, and HTTPRoutes of a cluster carry the traffic", instead
        )


def open_backend(project: Project, deployment: DeploymentSpec) -> TrafficBackend:
    """The owner of the traffic as deployment.yaml says; nothing is asked. SpecError where it has none."""
    if deployment.kubernetes is not None and is_on_cluster(deployment):
        from tsctl.gateway.kubernetes.backend import open_http_routes

        return open_http_routes(deployment, deployment.kubernetes)
    return EnvoyFiles(open_gateway(project, deployment))
