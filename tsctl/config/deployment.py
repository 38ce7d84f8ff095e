"""The schema of `deployment.yaml`: nodes, gateway, and the versions of models that the nodes serve."""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from handlers.contract import MOST_WORKERS
from tsctl.addresses import has_secret
from tsctl.config.environment import names
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.config.monitoring import MonitoringSpec, Objectives
from tsctl.config.nodes import NodeName, NodeSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.secrets import SecretName, SecretSource
from tsctl.config.spec import Address, ModelName, ModelVersion, SpecModel, read_spec
from tsctl.config.store import Store
from tsctl.config.tracing import TracingSpec
from tsctl.config.trust import TrustList
from tsctl.config.weights import TOTAL, parse_share, percent
from tsctl.errors import SpecError


def _host_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or 0


def _are_one_place(host: str, other: str) -> bool:
    """Whether two servers of this machine that listen on these hosts would meet."""
    first, second = (("127.0.0.1" if one == "localhost" else one) for one in (host, other))
    wild, here = ("0.0.0.0", "::"), ("127.", "::1", "0.0.0.0", "::")  # noqa: S104 - compared, and not listened on
    meets_all = (first in wild or second in wild) and first.startswith(here) and second.startswith(here)
    return first == second or meets_all


def is_on_every_machine(host: str) -> bool:
    """Whether each machine has this address for itself, so that two machines may name it."""
    ip = ip_address(host)
    return ip.is_loopback or ip.is_unspecified


def _of_listener(address: str) -> str:
    try:
        ip = ip_address(urlsplit(address).hostname or "")
    except ValueError:
        raise ValueError("must be an IP address of this machine, such as 127.0.0.1 or 0.0.0.0, and no name") from None
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        raise ValueError("must be an IP address without a zone, which Envoy cannot listen on")
    return address


#: Envoy listens on addresses, and asks nobody for those of a name.
ListenAddress = Annotated[Address, AfterValidator(_of_listener)]


#: Tokens that a client may owe beyond its budget; more than machines of today make in a day.
MOST_TOKENS = 999_999_999


class Budget(SpecModel):
    """The rate limits of one client: a bucket of `burst` requests, refilled at a steady rate, and one of tokens."""

    requests_per_s: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # refilled at this rate
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # requests at once
    tokens_per_minute: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None  # of language models; None: no limit


class TlsFiles(SpecModel):
    """PEM files of the gateway's listener, relative to the project; read again when they are replaced."""

    certificate: str  # the chain
    key: str  # of the certificate


def _require_scheme(address: str, tls: TlsFiles | None) -> None:
    if address.startswith("https") != (tls is not None):
        raise ValueError("address must begin with https:// where tls is given, and with http:// where it is not")


class GatewayPlace(SpecModel):
    """Where one of several gateways listens; all else is in `gateway`, and the same for all."""

    address: ListenAddress  # where clients ask
    metrics: ListenAddress  # Envoy's counters
    tls: TlsFiles | None = None  # files on its own machine; None: no TLS

    @model_validator(mode="after")
    def _check_listeners(self) -> GatewayPlace:
        _require_scheme(self.address, self.tls)
        (host, port), (other, other_port) = _host_port(self.address), _host_port(self.metrics)
        if port == other_port and host == other:
            raise ValueError(f"address and metrics must not both be {host}:{port}")
        return self


#: More than any machine has, and less than Envoy's numbers can hold.
MOST_BYTES = 1 << 44


class GatewaySpec(SpecModel):
    """The gateway's addresses and limits."""

    address: ListenAddress = "http://127.0.0.1:8000"  # where clients ask
    metrics: ListenAddress = "http://127.0.0.1:8003"  # Envoy's counters
    tls: TlsFiles | None = None  # None: no TLS
    request_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 16 << 20  # of a body; a larger one gets 413
    #: Of Envoy, beyond which it refuses requests; None: 2 GiB, or three quarters of the machine where that is less.
    memory_bytes: Annotated[int, Field(ge=64 << 20, le=MOST_BYTES)] | None = None
    #: Of bodies of 10,000 bytes and more that are at the nodes at a time; None: as many as the smallest node can hold.
    waiting_bytes: Annotated[int, Field(ge=1 << 20, le=MOST_BYTES)] | None = None
    budget: Budget = Budget()  # of a client whose key has none
    engine_header: bool = False  # answers say which engine gave them

    def at(self, place: GatewayPlace) -> GatewaySpec:
        """This gateway's rules, at the addresses of one of several gateways."""
        return self.model_copy(update={"address": place.address, "metrics": place.metrics, "tls": place.tls})

    @model_validator(mode="after")
    def _check_scheme(self) -> GatewaySpec:
        _require_scheme(self.address, self.tls)
        return self

    @property
    def listens_on_all(self) -> dict[str, tuple[str, int]]:
        """Host and port of its listeners, by their key in the file."""
        return {"address": _host_port(self.address), "metrics": _host_port(self.metrics)}


HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]{0,63}$")]
CookieName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]


class Sticky(SpecModel):
    """The header or cookie that identifies a user, so that the user stays on one version."""

    header: HeaderName | None = None  # its name, in lower case
    cookie: CookieName | None = None  # its name

    @model_validator(mode="after")
    def _check_choice(self) -> Sticky:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("give either header or cookie")
        return self


Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/\s*,]{1,253})$")]


class Cors(SpecModel):
    """The pages whose scripts may ask a model: origins such as https://app.example.com, or * for all."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1, strict=False)]  # such as https://app.example.com, or *


class RouteSpec(SpecModel):
    """The gateway's rules for clients of one model."""

    #: Of a request, at most; a client may ask for less.
    deadline_s: Annotated[float, Field(gt=0, le=3600, strict=False)] = 30.0
    idempotent: bool = True  # a request whose worker died may be sent again
    pinned: bool = True  # a client may name the version
    canary_header: bool = True  # `x-track: canary` reaches the canary at any weight
    sticky: Sticky | None = None  # None: every request is divided anew
    cors: Cors | None = None  # None: scripts of other origins may not read answers


class RayReplicas(SpecModel):
    """Replicas of a version on nodes of Ray, by Ray's own names; `workers` is the least number of them."""

    num_cpus: Annotated[float, Field(ge=0, le=1024)] = 1.0  # of each replica, by which Ray places it
    num_gpus: Annotated[float, Field(ge=0, le=64)] = 0.0  # of each replica, which sees only these
    max_replicas: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | None = None  # under load; None: always `workers`
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 8.0  # of each replica; above it Ray starts another one
    max_replicas_per_node: Annotated[int, Field(ge=1, le=100)] | None = None  # on one machine; None: as Ray likes

    @model_validator(mode="after")
    def _check_gpus(self) -> RayReplicas:
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus {self.num_gpus:g} is more than one and not whole, which Ray does not give")
        return self


class VersionTarget(SpecModel):
    """The wanted state of one version on each of its nodes."""

    archive: ModelVersion | None = None  # the version whose archive it serves; None: the one of its own name
    nodes: Annotated[tuple[NodeName, ...], Field(min_length=1, strict=False)] | None = None  # None: every node
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | None = None  # None: as the archive says
    ray: RayReplicas = RayReplicas()  # on nodes of Ray, where a worker is a replica
    #: The first digits of its archive's SHA-256, 12 at least; None: the current one in the store.
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")] | None = None

    @model_validator(mode="after")
    def _check_replicas(self) -> VersionTarget:
        most = self.ray.max_replicas
        if most is not None and self.workers is not None and most < self.workers:
            raise ValueError(f"ray.max_replicas {most} is less than workers {self.workers}, the least number of them")
        return self


class ModelTarget(SpecModel):
    """The wanted versions of one model, and the default, which answers callers that name none."""

    default: ModelVersion  # the version that answers callers that name none
    versions: Annotated[dict[ModelVersion, VersionTarget | None], Field(min_length=1)]  # by name
    route: RouteSpec = RouteSpec()  # rules of the gateway
    #: Percentages by version, such as {"1.0": 95%, "2.0": 5%}; None: `tsctl weights` and rollouts set them.
    weights: dict[ModelVersion, str] | None = None
    rollout: RolloutPolicy | None = None  # None: the deployment's
    objectives: Objectives | None = None  # keys that differ from the deployment's
    #: Files of its archives that may be read although reading them runs code, as NAME@sha256:DIGEST.
    trust: TrustList = ()
    #: Values that only this model's workers are given, by the name under which its handler asks for them.
    secrets: dict[SecretName, SecretSource] = {}

    @model_validator(mode="after")
    def _check_names(self) -> ModelTarget:
        if self.default not in self.versions:
            raise ValueError(f"default {self.default!r} is not one of the versions {', '.join(self.versions)}")
        for version in self.weights or {}:
            if version not in self.versions:
                raise ValueError(f"weights names {version!r}, which is not one of the versions")
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> ModelTarget:
        if self.weights is not None:
            try:
                total = sum(parse_share(share) for share in self.weights.values())
            except SpecError as error:
                raise ValueError(f"weights: {error.message}") from None
            if total != TOTAL:
                raise ValueError(f"the weights sum to {percent(total)}, not to 100%")
        return self

    def archive(self, version: str) -> str:
        """The version whose archive it serves."""
        target = self.versions.get(version)
        return (target.archive if target else None) or version

    def nodes(self, version: str) -> tuple[str, ...] | None:
        """The nodes that are to serve the version; None: every node, or the file does not name the version."""
        target = self.versions.get(version)
        return target.nodes if target else None

    def is_on(self, version: str, node: str) -> bool:
        """Whether the node is to serve the version."""
        nodes = self.nodes(version)
        return nodes is None or node in nodes

    @property
    def shares(self) -> dict[str, int] | None:
        """Weights in hundredths of a percent, of every version; None where they are not given."""
        if self.weights is None:
            return None
        return {version: parse_share(self.weights.get(version, "0%")) for version in self.versions}

    def workers(self, version: str) -> int | None:
        """Workers asked for; None: as the archive says."""
        target = self.versions[version]
        return target.workers if target else None


def _without_user(address: str) -> str:
    if has_secret(address):
        raise ValueError("must not name a user or a secret: the file system reads them from the environment")
    return address


class RecordsSpec(SpecModel):
    """Prediction records of all nodes; see docs/records.md."""

    #: Where `tsctl records push` moves records: a folder, relative to the project, or an address that fsspec knows.
    shared: Annotated[str, StringConstraints(min_length=1), AfterValidator(_without_user)] | None = None


#: For editors: nodes may be missing only where the cluster's routes carry the traffic.
_NODES_UNLESS_ON_CLUSTER: JsonDict = {
    "if": {
        "required": ["kubernetes"],
        "properties": {
            "kubernetes": {
                "type": "object", "required": ["traffic"], "properties": {"traffic": {"const": "httproute"}}
            }
        },
    },
    "else": {"required": ["nodes"], "properties": {"nodes": {"minProperties": 1}}},
}  # fmt: skip


class DeploymentSpec(SpecModel):
    """The whole file."""

    model_config = ConfigDict(json_schema_extra=_NODES_UNLESS_ON_CLUSTER)

    nodes: dict[NodeName, NodeSpec] = {}  # by name; none: a cluster alone runs versions, by `kubernetes.traffic`
    models: dict[ModelName, ModelTarget] = {}  # by name
    gateway: GatewaySpec | None = None  # None: clients call the nodes
    gateways: dict[
        NodeName, GatewayPlace
    ] = {}  # several gateways by name, each on a machine of its own; needs `control`
    rollout: RolloutPolicy = RolloutPolicy()  # for models without one
    monitoring: MonitoringSpec = MonitoringSpec()  # Prometheus, Alertmanager and the exporter
    records: RecordsSpec = RecordsSpec()  # of predictions
    tracing: TracingSpec | None = None  # None: no request is traced
    #: The place that operators' machines share: an absolute path, redis://... or s3://BUCKET/PREFIX. None: .tsctl here.
    control: Annotated[str, StringConstraints(min_length=1)] | None = None
    store: Store | None = None  # None: every machine has its own archives
    kubernetes: KubernetesSpec | None = None  # None: nothing of it runs on a cluster

    @model_validator(mode="before")
    @classmethod
    def _add_gateway(cls, content: Any) -> Any:
        """Several gateways need no `gateway`, which has the rules that all of them share."""
        return {"gateway": {}, **content} if isinstance(content, dict) and content.get("gateways") else content

    @model_validator(mode="after")
    def _check_any_node(self) -> DeploymentSpec:
        if not self.nodes and not self.is_on_cluster:
            raise ValueError("nodes: missing, and required; they may be left out with kubernetes: {traffic: httproute}")
        return self

    @model_validator(mode="after")
    def _check_gateways(self) -> DeploymentSpec:
        if self.gateways and self.control is None:
            raise ValueError("gateways need control: the place where all of them find what is to be in force")
        taken: dict[tuple[str, int], str] = {}  # who listens there, of hosts that are one machine's alone
        for name, place in self.gateways.items():
            for key, address in (("address", place.address), ("metrics", place.metrics)):
                if is_on_every_machine(_host_port(address)[0]):
                    continue
                if other := taken.get(_host_port(address)):
                    raise ValueError(f"gateways.{name}.{key} and {other} are both {address}")
                taken[_host_port(address)] = f"gateways.{name}.{key}"
        own = {"address", "metrics", "tls"} & (self.gateway.model_fields_set if self.gateway else set())
        if self.gateways and own:
            raise ValueError(f"gateway must not have {', '.join(sorted(own))}, which each of the gateways has")
        return self

    @model_validator(mode="after")
    def _set_traces(self) -> DeploymentSpec:
        """A node that names no collector has the deployment's, so its record says what it was started with."""
        default = self.tracing.endpoint if self.tracing is not None else None
        for name, node in self.nodes.items():
            if node.traces is None and default is not None:
                self.nodes[name] = node.model_copy(update={"traces": default})
        return self

    @model_validator(mode="after")
    def _check_ports(self) -> DeploymentSpec:
        taken: dict[int, list[tuple[str, str]]] = {}  # hosts, and who listens there, by port
        listened = [(name, node.host, port) for name, node in self.nodes.items() for port in node.listens_on]
        if self.gateway is not None and not self.gateways:  # several are on machines of their own
            listened += [(f"the gateway's {key}", *place) for key, place in self.gateway.listens_on_all.items()]
        for name, host, port in listened:
            for other, at in taken.setdefault(port, []):
                both_envoys = other not in self.nodes and name not in self.nodes  # which may bind what it has bound
                if other != name and (host == at or (not both_envoys and _are_one_place(host, at))):
                    of = host if host == at else f"{at} and {host}, which are one place"
                    both = f"{other} and {name}" if name.startswith("the gateway") else f"nodes {other} and {name}"
                    raise ValueError(f"{both} both have port {port} of {of}")
            taken[port].append((name, host))
        return self

    @model_validator(mode="after")
    def _check_kubernetes(self) -> DeploymentSpec:
        of_models = self.kubernetes.models if self.kubernetes is not None else {}
        if unknown := [name for name in of_models if name not in self.models]:
            raise ValueError(
                f"kubernetes.models names {', '.join(unknown)}; the models are {', '.join(self.models) or 'none'}"
            )
        for model, of_model in of_models.items():
            if unknown := [version for version in of_model.images if version not in self.models[model].versions]:
                raise ValueError(f"kubernetes.models.{model}.images names {unknown[0]!r}, which is no version of it")
        return self

    @model_validator(mode="after")
    def _check_nodes(self) -> DeploymentSpec:
        for model, target in self.models.items():
            for version, wanted in target.versions.items():
                if unknown := [name for name in (wanted and wanted.nodes) or () if name not in self.nodes]:
                    raise ValueError(
                        f"{model} {version} names node {', '.join(unknown)}; the nodes are {', '.join(self.nodes)}"
                    )
                names = (wanted and wanted.nodes) or ()
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    raise ValueError(f"{model} {version} names node {', '.join(twice)} twice")
                served = [name for name in self.nodes if target.is_on(version, name)]
                for other in served[1:]:
                    if self.nodes[served[0]].protocol != self.nodes[other].protocol:
                        raise ValueError(self._mixed(model, version, served[0], other))
        return self

    def _mixed(self, model: str, version: str, *names: str) -> str:
        first, other = (f"node {name} (engine {self.nodes[name].engine})" for name in names)
        return (
            f"{model} {version} cannot be on {first} and on {other}, which need requests of other forms: give it nodes,"
            f" such as nodes: [{names[0]}], and the other node a version of its own, with archive:"
            f' "{self.models[model].archive(version)}"'
        )

    @property
    def gateway_metrics(self) -> list[str]:
        """The address of the counters of each gateway."""
        several = [place.metrics for place in self.gateways.values()]
        return several or ([self.gateway.metrics] if self.gateway is not None else [])

    @property
    def gateway_addresses(self) -> dict[str, str]:
        """Where clients ask, by the gateway's name; a single one has none."""
        several = {name: place.address for name, place in self.gateways.items()}
        return several or ({"": self.gateway.address} if self.gateway is not None else {})

    def policy(self, model: str) -> RolloutPolicy:
        """The policy of the model's rollouts."""
        target = self.models.get(model)
        return target.rollout if target and target.rollout else self.rollout

    def objectives(self, model: str) -> Objectives:
        """The objectives of a model: its own keys, and the deployment's for the others."""
        target = self.models.get(model)
        return self.monitoring.objectives.replaced_by(target.objectives if target else None)

    @property
    def is_on_cluster(self) -> bool:
        """Whether HTTPRoutes of a cluster carry the traffic."""
        return self.kubernetes is not None and self.kubernetes.traffic == "httproute"

    def require_nodes(self) -> None:
        """Raises SpecError where there is no node, as on a cluster alone."""
        if not self.nodes:
            raise SpecError(
                "deployment.yaml names no node, and this command acts on nodes: its versions run on a cluster alone",
                "There: tsctl render kubernetes, plan, apply, weights, shadow, rollout. See docs/kubernetes.md.",
            )

    def node(self, name: str | None) -> tuple[str, NodeSpec]:
        """The node of that name; None means the only one.

        Raises:
            SpecError: no such node, or none was named and there are several.
        """
        self.require_nodes()
        if name is None and len(self.nodes) == 1:
            return next(iter(self.nodes.items()))
        if name is None:
            raise SpecError(
                f"there are several nodes: {', '.join(self.nodes)}",
                "Name one with --node; 'tsctl models' takes --all-nodes as well.",
            )
        if name not in self.nodes:
            raise SpecError(f"no node {name!r} in deployment.yaml; it names {', '.join(self.nodes)}")
        return name, self.nodes[name]


def read_deployment(path: Path) -> DeploymentSpec:
    """`deployment.yaml` as a DeploymentSpec, with `${NAME}` replaced by variables of this process's environment.

    Raises:
        SpecError: it names every mistake, and every variable that is missing.
    """
    return read_spec(path, DeploymentSpec, os.environ)


def variables_of(path: Path) -> dict[str, str]:
    """The variables of this process's environment that `deployment.yaml` names: a process that reads it needs them."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return {}  # whoever reads the file says what is wrong
    return {name: os.environ[name] for name in names(text) if name in os.environ}
