"""Versions with the nodes that serve them, as the nodes of a cluster. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tsctl.config.nodes import TRITON
from tsctl.gateway.envoy.messages import Json, address, metadata, metadata_of

VersionKey = tuple[str, str]  # model and version
#: Of a cluster's metadata: the path of its version on its nodes, to which a route sends.
PATH_KEY = "path"


@dataclass(frozen=True)
class Endpoint:
    """One node that serves a version."""

    node: str
    host: str  # an IP address
    port: int
    token: str | None = field(repr=False)  # None: the node asks for none
    is_draining: bool = False  # health-checked, and sent no requests
    engine: str = "torchserve"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Probe:
    """The request of a health check, which a worker that works answers with 200."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Way:
    """How the nodes of a version are asked, where that is not as on TorchServe."""

    protocol: str  # of `tsctl.config.nodes`
    path: str
    queue: int | None = None  # requests at most on each node; None: it bounds them itself


#: Kinds of models that answer the OpenAI API.
TEXT, EMBEDDINGS = "text", "embeddings"


@dataclass(frozen=True)
class Offer:
    """What a version offers of the OpenAI API, as its archive says."""

    kind: str  # TEXT or EMBEDDINGS
    first_token_s: float  # a stream of text begins until then
    answer_s: float  # a whole answer takes so long at most


@dataclass(frozen=True)
class Upstream:
    """One version, and the nodes that serve it."""

    model: str
    version: str
    endpoints: tuple[Endpoint, ...]
    probe: Probe | None  # None: an archive without samples, of which only the connection is checked
    way: Way | None = None  # how its nodes are asked; None: at TorchServe's path, and they bound what waits themselves
    offer: Offer | None = None  # None: nothing of the OpenAI API
    is_stock: bool = False  # not built by tsctl, or not known to be: its handler finds its inputs by their names

    @property
    def key(self) -> VersionKey:
        return self.model, self.version

    @property
    def is_triton(self) -> bool:
        return self.way is not None and self.way.protocol == TRITON

    @property
    def is_draining(self) -> bool:
        return any(endpoint.is_draining for endpoint in self.endpoints)


def cluster_name(model: str, version: str, is_shadow: bool = False) -> str:
    """The name of a version's cluster, or of the one for its copies."""
    return f"{model}~{version}" + ("~shadow" if is_shadow else "")


def stat_name(cluster: str) -> str:
    """A cluster's name in Envoy's statistics, where a dot separates: two clusters never have the same."""
    return cluster.replace(".", "%2E")  # no name of a model or a version has a percent sign


def endpoints(cluster: str, upstream: Upstream) -> Json:
    """The cluster's nodes, each with its token, which the cluster's filters and health checks send."""
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [_entry(one) for one in upstream.endpoints]}]}


def endpoints_of(assignment: Json) -> tuple[Endpoint, ...]:
    """The nodes, read back from what `endpoints` rendered."""
    return tuple(_endpoint(entry) for entry in assignment["endpoints"][0]["lb_endpoints"])


def _entry(endpoint: Endpoint) -> Json:
    return {
        "endpoint": {"address": address(endpoint.host, endpoint.port), "hostname": endpoint.node},
        "metadata": metadata(
            node=endpoint.node, authorization=f"Bearer {endpoint.token or 'none'}", engine=endpoint.engine
        ),
        **({"health_status": "DRAINING"} if endpoint.is_draining else {}),
    }


def _endpoint(entry: Json) -> Endpoint:
    socket, values = entry["endpoint"]["address"]["socket_address"], metadata_of(entry)
    return Endpoint(
        values["node"],
        socket["address"],
        socket["port_value"],
        values["authorization"].removeprefix("Bearer "),
        is_draining="health_status" in entry,
        engine=values.get("engine", "torchserve"),  # files of before
    )
