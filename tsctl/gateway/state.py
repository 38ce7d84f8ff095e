"""The gateway of one project: its files, the traffic in force, the lock for changes, and its status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tsctl.config.deployment import MOST_BYTES, DeploymentSpec, GatewaySpec, RouteSpec
from tsctl.config.project import Project
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy.admin import Admin, Host
from tsctl.gateway.envoy.render import clusters, routes
from tsctl.gateway.envoy.render.upstreams import Upstream, cluster_name
from tsctl.gateway.files import GatewayFiles, read_document, running_pid, silent_s
from tsctl.gateway.traffic import SHADOW, STABLE, Traffic
from tsctl.host.files import keep_reserve, make_folder
from tsctl.host.locks import exclusive
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node

LOCK_S = 10.0
#: Room for the files of routes and keys, on a disk that is full.
RESERVE_BYTES = 16 << 20
#: A supervisor that gave no sign of life for so long hangs; it gives one at every tick, and no tick takes so long.
SUPERVISOR_SILENT_S = 60.0
#: How long a node may take to answer; well within LOCK_S, because the lock may be held meanwhile.
PATIENCE_S = 3.0


@dataclass(frozen=True)
class Gateway:
    """The gateway of one project on this machine."""

    project: Project
    deployment: DeploymentSpec
    spec: GatewaySpec
    files: GatewayFiles

    @property
    def admin(self) -> Admin:
        return Admin(self.files.admin)

    @property
    def route_specs(self) -> dict[str, RouteSpec]:
        """By model."""
        return {model: target.route for model, target in self.deployment.models.items()}

    @property
    def waiting_bytes(self) -> int:
        """Of large bodies at the nodes at a time: as many as the smallest node can hold, which may get all of them."""
        return self.spec.waiting_bytes or min(MOST_BYTES, *(node.waiting_bytes for node in self.nodes()))

    def nodes(self) -> list[Node]:
        return open_nodes(self.project, self.deployment, PATIENCE_S)


def open_gateway(project: Project, deployment: DeploymentSpec) -> Gateway:
    """The gateway, not started; raises SpecError where the deployment has none."""
    if deployment.gateway is None:
        raise SpecError(
            "deployment.yaml has no gateway", "Add 'gateway: {}' for one at http://127.0.0.1:8000; see docs/gateway.md."
        )
    return Gateway(project, deployment, deployment.gateway, GatewayFiles(project.state / "gateway"))


def traffic_in_force(gateway: Gateway) -> dict[str, Traffic]:
    """The traffic of every route in Envoy, by model; where it does not run, in the file that it will start with.

    A version of the routes is the digest of their content. So where Envoy has the version of the file, the file is what
    is in force, and Envoy need not write out all keys and routes, which takes it a second for some thousand.
    """
    is_live, written = gateway.admin.is_live(), None
    try:
        written = read_document(gateway.files.routes)
    except GatewayError:  # it is damaged, and Envoy has what it took from it before
        if not is_live:
            raise
    configuration = written["resources"][0] if written else None
    if is_live and (written is None or written["version_info"] != gateway.admin.routes_version()):
        configuration = gateway.admin.routes()
    return {route.model: route for route in routes.traffic_of(configuration)} if configuration else {}


def require_route(traffic: Mapping[str, Traffic], model: str) -> Traffic:
    """The model's traffic; raises GatewayError where it has no route."""
    if model not in traffic:
        raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(traffic) or 'none'}.")
    return traffic[model]


def require_live(gateway: Gateway) -> None:
    """Raises GatewayError where the gateway does not run."""
    if not gateway.admin.is_live():
        raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")


def upstreams_written(gateway: Gateway) -> list[Upstream]:
    """The versions in the file of clusters."""
    return clusters.upstreams_of(read_document(gateway.files.clusters) or {"resources": []})


@contextmanager
def changing(gateway: Gateway) -> Iterator[None]:
    """Keeps other tsctl from changing the gateway; raises ConflictError where one does for longer than LOCK_S."""
    for folder in (gateway.project.state, *gateway.files.folders):
        make_folder(folder)
    with exclusive(gateway.files.lock, "the gateway", LOCK_S):
        keep_reserve(gateway.files.reserve, RESERVE_BYTES)
        yield


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
    problem: str = ""  # of its processes, though clients may be answered; empty where there is none

    @property
    def is_ready(self) -> bool:
        """Every route has its stable version on some node that can answer, and the gateway's processes run."""
        stable = [row for row in self.rows if row.track == STABLE]
        return self.is_live and bool(stable) and all(row.healthy for row in stable) and not self.problem

    @property
    def condition(self) -> str:
        """The status in a word or two."""
        return "ready" if self.is_ready else "not ready" if self.is_live else "hangs" if self.pid else "not running"


def supervisor_pid(gateway: Gateway) -> int | None:
    """The supervisor's process; None where there is none, or it hangs."""
    record = gateway.files.supervisor_record
    return running_pid(record) if silent_s(record) < SUPERVISOR_SILENT_S else None


def gateway_status(gateway: Gateway) -> GatewayStatus:
    """The status; never raises because the gateway does not run."""
    admin, files = gateway.admin, gateway.files
    traffic, hosts, address = {}, {}, gateway.spec.address
    pid, supervisor, problem = running_pid(files.envoy_record), supervisor_pid(gateway), ""
    try:
        is_live = admin.is_live()
        traffic = traffic_in_force(gateway)
        if is_live:
            hosts, address = admin.hosts(), admin.settings().get("address", address)
    except GatewayError as error:
        is_live, problem = False, error.message
    if pid is None and files.envoy_record.exists():
        problem = "Envoy has ended by itself"
    if supervisor is None and files.envoy_record.exists():
        state = "hangs" if running_pid(files.supervisor_record) else "does not run"
        problem = (
            f"{problem}; " * bool(problem) + f"its supervisor {state}, so nobody restarts Envoy or follows the nodes"
        )
    return GatewayStatus(
        pid,
        supervisor,
        is_live,
        address,
        tuple(
            _row(route, version, hosts.get(cluster_name(route.model, version), ()))
            for route in traffic.values()
            for version in route.versions
        ),
        tuple(traffic.values()),
        problem,
    )


def gateway_trouble(status: GatewayStatus) -> GatewayError:
    """The error of a gateway whose processes have a problem."""
    return GatewayError(f"the gateway: {status.problem}", "Run 'tsctl gateway start'.")


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
