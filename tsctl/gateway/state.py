"""The gateway of one project: where its files lie, what it does now, and the lock of whoever changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsctl.config.deployment import DeploymentSpec, GatewaySpec
from tsctl.config.project import Project
from tsctl.errors import SpecError
from tsctl.gateway import discover
from tsctl.gateway.envoy import render
from tsctl.gateway.envoy.admin import Admin
from tsctl.gateway.envoy.render import Places, Upstream
from tsctl.gateway.files import read_document
from tsctl.gateway.traffic import Traffic
from tsctl.host.files import make_folder
from tsctl.host.locks import exclusive
from tsctl.nodes.torchserve.node import Node, open_nodes

LOCK_S = 10.0
#: How long a node may take to tell what it serves; well within LOCK_S.
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Gateway:
    """The gateway of one project on this machine."""

    project: Project
    deployment: DeploymentSpec
    spec: GatewaySpec
    places: Places

    @property
    def admin(self) -> Admin:
        return Admin(self.places.admin)

    @property
    def keys_file(self) -> Path:
        return self.places.folder / "keys.json"

    @property
    def log(self) -> Path:
        """What Envoy itself says."""
        return self.places.folder / "logs" / "envoy.log"

    def nodes(self) -> list[Node]:
        """Every node; one that is silent is not waited for long, because a lock may be held meanwhile."""
        return open_nodes(self.project, self.deployment, PATIENCE_S)


def open_gateway(project: Project, deployment: DeploymentSpec) -> Gateway:
    """The gateway; nothing is asked or started.

    Raises:
        SpecError: the deployment has none.
    """
    if deployment.gateway is None:
        raise SpecError(
            "deployment.yaml has no gateway", "Add 'gateway: {}' for one at http://127.0.0.1:8000; see docs/gateway.md."
        )
    return Gateway(project, deployment, deployment.gateway, Places(project.state / "gateway"))


def traffic_in_force(gateway: Gateway) -> list[Traffic]:
    """What Envoy does now; where it does not run, what it will do when it starts."""
    if gateway.admin.is_live():
        served = gateway.admin.routes()
        return render.traffic_of(served) if served else []
    written = read_document(gateway.places.routes)
    return render.traffic_of(written["resources"][0]) if written else []


def upstreams_written(gateway: Gateway) -> list[Upstream]:
    """The clusters that the files name."""
    written = read_document(gateway.places.clusters)
    if written is None:
        return []
    names = [cluster["name"] for cluster in written["resources"]]
    files = {name: read_document(gateway.places.endpoints / f"{name}.json") for name in names}
    return discover.known_upstreams(written, {name: content for name, content in files.items() if content})


@contextmanager
def changing(gateway: Gateway) -> Iterator[None]:
    """No other tsctl changes the gateway while the block runs.

    Raises:
        ConflictError: another one does, and does not end soon.
    """
    for folder in (
        gateway.project.state, gateway.places.folder, gateway.places.endpoints, gateway.places.access_log.parent,
    ):  # fmt: skip
        make_folder(folder)
    with exclusive(gateway.places.folder / "lock", "the gateway", LOCK_S):
        yield
