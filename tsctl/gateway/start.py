"""Starts the gateway of this machine and says how it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway.change import set_clients, sync
from tsctl.gateway.envoy.process import (
    envoy_record,
    keeper_record,
    launch,
    launch_keeper,
    running,
    stop,
    validate,
    write_static_files,
)  # fmt: skip
from tsctl.gateway.envoy.render import cluster_name, settings
from tsctl.gateway.files import read_document
from tsctl.gateway.headers import KEY_HEADER
from tsctl.gateway.keys import digest, new_key, plain_keys, record_of
from tsctl.gateway.state import Gateway, changing, traffic_in_force
from tsctl.gateway.traffic import Traffic
from tsctl.host.files import write_secret
from tsctl.host.progress import Progress

#: The client whose key `make up` makes.
LOCAL_CLIENT = "local"


@dataclass(frozen=True)
class RouteStatus:
    """One version on one route."""

    model: str
    version: str
    track: str
    weight: int
    nodes: int
    healthy: int
    active: int
    why_not: str


@dataclass(frozen=True)
class GatewayStatus:
    """What `tsctl gateway status` tells."""

    pid: int | None
    keeper: int | None
    is_live: bool
    address: str
    rows: tuple[RouteStatus, ...]
    traffic: tuple[Traffic, ...]

    @property
    def is_ready(self) -> bool:
        """Every route has its stable version on some node that can answer."""
        stable = [row for row in self.rows if row.track == "stable"]
        return self.is_live and bool(stable) and all(row.healthy for row in stable)


def start_gateway(gateway: Gateway, progress: Progress, with_keeper: bool = True) -> list[str]:
    """The gateway runs with what the nodes serve now; what was changed, nothing where it ran already.

    Args:
        with_keeper: whether its keeper runs in the background; else the caller is the keeper.

    Raises:
        GatewayError: Envoy does not start, refuses what it was given, or runs with settings that were changed since.
        ConflictError: the caller cannot be the keeper, because there is one.
    """
    keeper, changes = running(keeper_record(gateway)), []
    if keeper is not None and not with_keeper:
        raise ConflictError(f"the gateway has a keeper, process {keeper}", "End both first: tsctl gateway stop.")
    if running(envoy_record(gateway)) is None:
        with progress.step("starting the gateway") as step:
            with changing(gateway):
                write_static_files(gateway)
            sync(gateway)  # the files, which Envoy then starts with
            validate(gateway)
            launch(gateway)
            step.done(f"answers at {gateway.spec.address}")
        changes.append("started the gateway")
    else:
        _require_same_settings(gateway)
        changes += sync(gateway)
    if with_keeper and keeper is None:
        launch_keeper(gateway)
    return changes


def _require_same_settings(gateway: Gateway) -> None:
    started = gateway.admin.settings() if gateway.admin.is_live() else {}
    wanted = settings(gateway.spec)
    others = [name for name, value in wanted.items() if name in started and started[name] != value]
    if others:
        runs = ", ".join(f"{name} {started[name]}" for name in others)
        given = ", ".join(f"{name} {wanted[name]}" for name in others)
        raise GatewayError(
            f"the gateway runs with {runs}, and deployment.yaml says {given}",
            "It takes that when it starts: 'tsctl gateway stop', then 'tsctl gateway start'; clients get no answer"
            " meanwhile.",
        )


def local_key(gateway: Gateway) -> Path:
    """The header file of a key for whoever sits at this machine, made where there is none in force."""
    path = gateway.places.folder / "local.header"
    plain = plain_keys(read_document(gateway.places.routes))
    name, _, key = path.read_text(encoding="utf-8").strip().partition(": ") if path.is_file() else ("", "", "")
    if name != KEY_HEADER or digest(key) not in plain:
        key = new_key()
        record = record_of(key, LOCAL_CLIENT, None, None)
        set_clients(
            gateway, lambda records: [*(r for r in records if r.client != LOCAL_CLIENT), record], {record.sha256: key}
        )
        write_secret(path, f"{KEY_HEADER}: {key}\n")
    return path


def stop_gateway(gateway: Gateway, progress: Progress) -> bool:
    """The gateway has ended; True if it ran."""
    if running(envoy_record(gateway)) is None and running(keeper_record(gateway)) is None:
        return False
    with progress.step("stopping the gateway") as step:
        stop(gateway)
        step.done("stopped")
    return True


def gateway_status(gateway: Gateway) -> GatewayStatus:
    """How it is now; never raises because it does not run."""
    admin = gateway.admin
    is_live = admin.is_live()
    traffic, hosts, address = traffic_in_force(gateway), {}, gateway.spec.address
    if is_live:
        try:
            hosts, address = admin.hosts(), admin.settings().get("address", address)
        except GatewayError:
            is_live = False
    rows = []
    for one in traffic:
        for version in one.versions:
            found = hosts.get(cluster_name(one.model, version), [])
            is_shadow = one.shadow is not None and one.shadow.version == version
            track = one.track(version) or ("shadow" if is_shadow else "")
            why_not = "; ".join(f"{host.address} {host.why_not}" for host in found if not host.is_healthy)
            healthy = sum(host.is_healthy for host in found)
            active = sum(host.active for host in found)
            weight = one.weights.get(version, 0)
            rows.append(RouteStatus(one.model, version, track, weight, len(found), healthy, active, why_not))
    return GatewayStatus(
        running(envoy_record(gateway)),
        running(keeper_record(gateway)),
        is_live,
        address,
        tuple(rows),
        tuple(traffic),
    )
