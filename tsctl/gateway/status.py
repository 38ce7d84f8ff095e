"""Reads how the gateway is now: its processes, and each version on each route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Host
from tsctl.gateway.envoy.process import running_pid
from tsctl.gateway.envoy.render.upstreams import cluster_name
from tsctl.gateway.state import Gateway, traffic_in_force
from tsctl.gateway.traffic import SHADOW, STABLE, Traffic


@dataclass(frozen=True)
class RouteStatus:
    """One version on one route."""

    model: str
    version: str
    track: str  # empty where it plays none
    weight: int
    nodes: int
    healthy: int
    active: int  # requests in flight
    why_not: str  # Envoy's reasons against nodes; empty where all are healthy


@dataclass(frozen=True)
class GatewayStatus:
    """The content of `tsctl gateway status`."""

    pid: int | None
    supervisor: int | None
    is_live: bool
    address: str
    rows: tuple[RouteStatus, ...]
    traffic: tuple[Traffic, ...]

    @property
    def is_ready(self) -> bool:
        """Every route has its stable version on some node that can answer."""
        stable = [row for row in self.rows if row.track == STABLE]
        return self.is_live and bool(stable) and all(row.healthy for row in stable)


def gateway_status(gateway: Gateway) -> GatewayStatus:
    """The status; never raises because the gateway does not run."""
    admin = gateway.admin
    is_live = admin.is_live()
    traffic, hosts, address = traffic_in_force(gateway), {}, gateway.spec.address
    if is_live:
        try:
            hosts, address = admin.hosts(), admin.settings().get("address", address)
        except GatewayError:
            is_live = False
    return GatewayStatus(
        running_pid(gateway.files.envoy_record),
        running_pid(gateway.files.supervisor_record),
        is_live,
        address,
        tuple(
            _row(route, version, hosts.get(cluster_name(route.model, version), ()))
            for route in traffic.values()
            for version in route.versions
        ),
        tuple(traffic.values()),
    )


def _row(route: Traffic, version: str, hosts: Sequence[Host]) -> RouteStatus:
    return RouteStatus(
        route.model,
        version,
        route.track(version) or (SHADOW if route.shadow and route.shadow.version == version else ""),
        route.weights.get(version, 0),
        len(hosts),
        sum(host.is_healthy for host in hosts),
        sum(host.active for host in hosts),
        "; ".join(f"{host.address} {host.why_not}" for host in hosts if not host.is_healthy),
    )
