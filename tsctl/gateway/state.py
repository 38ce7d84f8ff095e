"""The gateway of one project: its files, the traffic in force, the lock for changes, and its status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tsctl.config.deployment import MOST_BYTES, DeploymentSpec, GatewaySpec, RouteSpec
from tsctl.config.project import Project
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy.admin import Admin, Host
from tsctl.gateway.envoy.render import clusters, routes
from tsctl.gateway.envoy.render.upstreams import Upstream, cluster_name
from tsctl.gateway.files import GatewayFiles, followed_name, read_document, running_pid, silent_s
from tsctl.gateway.keys import Record, plain_keys, read_keys
from tsctl.gateway.shared.admin import SharedAdmin
from tsctl.gateway.shared.control import SharedGateways
from tsctl.gateway.shared.presence import Presence, trouble
from tsctl.gateway.traffic import SHADOW, STABLE, Traffic
from tsctl.host.files import keep_reserve, make_folder, stamp
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
    """The gateway of one project on this machine, or all of its gateways together, on whatever machines.

    Args:
        shared: all of them, where there are several: changes are published, and what is in force is read there.
        name: of this machine's gateway, where it is one of several: it takes what others publish.
        guard: called before each change; raises ConflictError where this process must change nothing more.
    """

    project: Project
    deployment: DeploymentSpec
    spec: GatewaySpec
    files: GatewayFiles
    shared: SharedGateways | None = None
    name: str = ""
    guard: Callable[[], None] = lambda: None

    @property
    def admin(self) -> Admin:
        return Admin(self.files.admin) if self.shared is None else SharedAdmin(self.shared)

    @property
    def address(self) -> str:
        """Where clients ask; of several gateways, the first one's."""
        return (
            next((place.address for place in self.deployment.gateways.values()), "")
            if self.shared
            else self.spec.address
        )

    @property
    def sharing(self) -> int:
        """The gateways among which budgets of clients are divided; raises GatewayError where the file is damaged."""
        written = read_document(self.files.sharing) if self.name else None
        number = written.get("gateways") if written is not None else 1
        if not isinstance(number, int) or number < 1:
            raise GatewayError(
                f"{self.files.sharing} is damaged: gateways is {number!r}",
                "Remove it; the gateway writes it anew within seconds.",
            )
        return number

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
    """The gateway, or all of several, to be read and changed; raises SpecError where the deployment has none."""
    if deployment.gateway is None and deployment.is_on_cluster:
        raise SpecError(
            "deployment.yaml has no gateway of tsctl: HTTPRoutes of a cluster carry the traffic",
            "There: tsctl weights, shadow set, rollout start. Keys, budgets and captures need a gateway of tsctl.",
        )
    if deployment.gateway is None:
        raise SpecError(
            "deployment.yaml has no gateway", "Add 'gateway: {}' for one at http://127.0.0.1:8000; see docs/gateway.md."
        )
    files, shared = GatewayFiles(project.state / "gateway"), None
    if deployment.gateways and deployment.control is not None:
        shared = SharedGateways(deployment.control, tuple(deployment.gateways), project.state / "gateways")
    return Gateway(project, deployment, deployment.gateway, files, shared)


def open_local(project: Project, deployment: DeploymentSpec) -> Gateway:
    """The gateway of this machine, which may be one of several; raises SpecError where there is none here."""
    opened = open_gateway(project, deployment)
    if opened.shared is None:
        return opened
    name = followed_name(opened.files)
    if name is None:
        names = ", ".join(deployment.gateways)
        raise SpecError(
            f"no gateway was started on this machine; deployment.yaml names {names}",
            "On the machine of each: tsctl gateway follow NAME",
        )
    return open_named(project, deployment, name)


def open_here(project: Project, deployment: DeploymentSpec) -> Gateway:
    """This machine's gateway, where it is one of several; else as `open_gateway`."""
    opened = open_gateway(project, deployment)
    is_one = opened.shared is not None and opened.files.follows.exists()
    return open_local(project, deployment) if is_one else opened


def open_named(project: Project, deployment: DeploymentSpec, name: str) -> Gateway:
    """This machine's gateway as one of several; raises SpecError where deployment.yaml does not name it."""
    if name not in deployment.gateways:
        raise SpecError(
            f"deployment.yaml names no gateway {name!r}, but {', '.join(deployment.gateways) or 'none'}",
            "Add it to 'gateways' on the operator's machine, and run 'tsctl apply' there.",
        )
    opened = open_gateway(project, deployment)
    return replace(opened, spec=opened.spec.at(deployment.gateways[name]), shared=None, name=name)


def traffic_in_force(gateway: Gateway) -> dict[str, Traffic]:
    """The traffic of every route in Envoy, by model; where it does not run, in the file that it will start with.

    Of several gateways, what was published last: one that does not report may still have what was before.

    A version of the routes is the digest of their content. So where Envoy has the version of the file, the file is what
    is in force, and Envoy need not write out all keys and routes, which takes it a second for some thousand.
    """
    if gateway.shared is not None:
        return gateway.shared.base.routes
    is_live, path = gateway.admin.is_live(), gateway.files.routes
    version, traffic = "", tuple[Traffic, ...]()
    try:
        version, traffic = _traffic_written(path, stamp(path))
    except GatewayError:  # it is damaged, and Envoy has what it took from it before
        if not is_live:
            raise
    if is_live and version != gateway.admin.routes_version():
        configuration = gateway.admin.routes()
        traffic = tuple(routes.traffic_of(configuration)) if configuration else ()
    return {route.model: route for route in traffic}


@lru_cache(4)
def _traffic_written(path: Path, stamp: tuple[int, ...]) -> tuple[str, tuple[Traffic, ...]]:
    """Version and traffic of a file of routes; no version where there is no file."""
    written = read_document(path)
    return (written["version_info"], tuple(routes.traffic_of(written["resources"][0]))) if written else ("", ())


def require_route(traffic: Mapping[str, Traffic], model: str) -> Traffic:
    """The model's traffic; raises GatewayError where it has no route."""
    if model not in traffic:
        raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(traffic) or 'none'}.")
    return traffic[model]


def require_live(gateway: Gateway) -> None:
    """Raises GatewayError where the gateway does not run."""
    if not gateway.admin.is_live():
        if gateway.shared is not None:
            raise GatewayError("no gateway runs", "On the machine of each: tsctl gateway follow NAME")
        raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")


def upstreams_written(gateway: Gateway) -> list[Upstream]:
    """The versions in the file of clusters; of several gateways, those that were published last."""
    if gateway.shared is not None:
        return list(gateway.shared.base.upstreams)
    return list(_upstreams_written(gateway.files.clusters, stamp(gateway.files.clusters)))


@lru_cache(4)
def _upstreams_written(path: Path, stamp: tuple[int, ...]) -> tuple[Upstream, ...]:
    return tuple(clusters.upstreams_of(read_document(path) or {"resources": []}))


def keys_written(gateway: Gateway) -> tuple[list[Record], dict[str, str]]:
    """The records of keys, and the keys in force by their SHA-256."""
    if gateway.shared is not None:
        base = gateway.shared.base
        return list(base.records), dict(base.plain)
    return read_keys(gateway.files.keys), plain_keys(read_document(gateway.files.routes))


def as_writer(gateway: Gateway, guard: Callable[[], None], writer: str, term: int) -> Gateway:
    """The gateway, which this process alone changes from now on as this writer: one with an older term does no more.

    Args:
        guard: of the Gateway.

    Raises:
        ConflictError: the writer has a newer term, or another process is in the middle of a change.
    """
    taken = replace(gateway, guard=guard)
    with changing(taken):  # behind a change that the writer's older term had begun
        if taken.shared is not None:
            taken.shared.take_fence(writer, term)
    return taken


def reopened(gateway: Gateway, before: Gateway) -> Gateway:
    """A gateway that was opened anew, changed under the same conditions as before."""
    if gateway.shared is not None and before.shared is not None:
        gateway.shared.fence = before.shared.fence
    return replace(gateway, guard=before.guard)


@contextmanager
def changing(gateway: Gateway) -> Iterator[None]:
    """Keeps other tsctl from changing the gateway; raises ConflictError where one does for longer than LOCK_S."""
    for folder in (gateway.project.state, *gateway.files.folders):
        make_folder(folder)
    with exclusive(gateway.files.lock, "the gateway", LOCK_S):
        gateway.guard()  # with the lock: a process that was stopped before it changes nothing when it goes on
        if gateway.shared is not None:
            with gateway.shared.held():  # where somebody else publishes meanwhile, the place refuses
                yield
            return
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
    gateways: tuple[Presence, ...] = ()  # of several, each; the rest is what they are together

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
    if gateway.shared is not None:
        return _shared_status(gateway, gateway.shared)
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


def _shared_status(gateway: Gateway, shared: SharedGateways) -> GatewayStatus:
    addresses = gateway.deployment.gateway_addresses
    each = shared.presences(addresses)
    traffic, is_live = traffic_in_force(gateway), gateway.admin.is_live()
    hosts = gateway.admin.hosts() if is_live else {}
    return GatewayStatus(
        None,
        None,
        is_live,
        ", ".join(addresses.values()),
        tuple(
            _row(route, version, hosts.get(cluster_name(route.model, version), ()))
            for route in traffic.values()
            for version in route.versions
        ),
        tuple(traffic.values()),
        trouble(each),
        each,
    )


def gateway_trouble(status: GatewayStatus) -> GatewayError:
    """The error of a gateway whose processes have a problem."""
    if status.gateways:
        again = (
            "It takes the newest generation when it is back. If its machine is gone, remove it from deployment.yaml."
        )
        return GatewayError(status.problem, again)
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
