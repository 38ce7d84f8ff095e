"""The schema of a node in `deployment.yaml`: one class for each engine, chosen by the key `engine`.

A new engine is a class here, its name in `NodeSpec`, and a package in `tsctl/nodes/` (docs/engines.md).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from handlers.contract import MOST_RECORDS_MB
from tsctl.config.spec import Address, SpecModel
from tsctl.config.tracing import Collector

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]*$", max_length=40)]
Port = Annotated[int, Field(ge=1, le=65535)]

#: Versions of one vLLM node where the spec does not name its ports, and the most ports that it may name.
MOST_SERVERS, MOST_PORTS = 8, 256

#: How a node answers at the path of a version: a POST of the body gets the handler's status, headers and body.
PLAIN = "plain"
#: As PLAIN, in the envelope of a model on Triton (handlers/adapters/triton/envelope.py).
TRITON = "triton"
#: Begins the hosts that only their own machine reaches.
LOOPBACK = ("127.", "localhost", "::1")


def _of_torchserve(address: str) -> str:
    if ":" in (urlsplit(address).hostname or ""):
        raise ValueError("must not be an IPv6 address, which TorchServe cannot listen on; use IPv4 or a name")
    return address


TorchServeAddress = Annotated[Address, AfterValidator(_of_torchserve)]


class BaseNodeSpec(SpecModel):
    """What the nodes of all engines have."""

    #: The keys that say which server runs and where: what is asked means nothing where these are others.
    places: ClassVar[frozenset[str]] = frozenset(
        ("engine", "address", "inference", "management", "metrics", "grpc_ports")
    )

    #: How it answers; all nodes of a version need the same.
    protocol: ClassVar[str] = PLAIN

    engine: str  # the server
    nice: Annotated[int, Field(ge=0, le=19)] = 0  # of all its processes; for shadows, which must not slow down others
    records_mb: Annotated[int, Field(ge=64, le=1 << 24)] = MOST_RECORDS_MB  # of all its prediction records
    traces: Collector | None = None  # where its workers send spans; None: as the deployment's `tracing` says
    key_file: str | None = None  # the file with its tokens, where another started it; None: `tsctl node start` does

    @property
    def url(self) -> str:
        """The address that requests for answers go to."""
        raise NotImplementedError

    @property
    def listens_on(self) -> tuple[int, ...]:
        """Every port that it opens on `host`."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether only the machine where it runs can reach it."""
        return self.host.startswith(LOOPBACK)


class TorchServeSpec(BaseNodeSpec):
    """One TorchServe process and its addresses; `key_file` is TorchServe's key_file.json."""

    engine: Literal["torchserve"] = "torchserve"  # may be left out
    inference: TorchServeAddress = "http://127.0.0.1:8080"  # where requests are answered
    #: Where versions are registered; keep it from other machines.
    management: TorchServeAddress = "http://127.0.0.1:8081"
    metrics: TorchServeAddress = "http://127.0.0.1:8082"  # TorchServe's own
    #: Inference and management; TorchServe opens both.
    grpc_ports: tuple[Port, Port] = Field(default=(7070, 7071), strict=False)

    @model_validator(mode="after")
    def _check_ports(self) -> TorchServeSpec:
        if len(set(self.listens_on)) != len(self.listens_on):
            raise ValueError(f"the five ports must differ, got {', '.join(map(str, self.listens_on))}")
        return self

    @property
    def ports(self) -> tuple[int, int, int]:
        """HTTP ports: inference, management, metrics."""
        inference, management, metrics = (
            urlsplit(a).port or 0 for a in (self.inference, self.management, self.metrics)
        )
        return inference, management, metrics

    @property
    def url(self) -> str:
        return self.inference

    @property
    def listens_on(self) -> tuple[int, ...]:
        return (*self.ports, *self.grpc_ports)


def _without_tls(address: str) -> str:
    if not address.startswith("http://"):
        raise ValueError("must begin with http://, as neither the engine nor the gateway's way to it has TLS")
    return address


PlainAddress = Annotated[Address, AfterValidator(_without_tls)]


class OneAddressSpec(BaseNodeSpec):
    """A node whose server listens on one address for everything."""

    address: PlainAddress  # for everything

    @property
    def url(self) -> str:
        return self.address

    @property
    def listens_on(self) -> tuple[int, ...]:
        return (urlsplit(self.address).port or 0,)


class OwnServerSpec(OneAddressSpec):
    """A node of `handlers/adapters/asgi/node`, which serves many versions; `key_file` has its admin token."""

    tokens: bool = True  # requests for answers need the token in the key file; without, whoever reaches it may ask


class UvicornSpec(OwnServerSpec):
    """That node under uvicorn."""

    engine: Literal["uvicorn"]  # our own server
    environment: Literal["vllm"] | None = None  # the engine whose environment runs the workers; None: tsctl's own


def _with_ip(address: str) -> str:
    host = urlsplit(address).hostname or ""
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(f"must have an IP address and not a name, got {host}: BentoML listens on addresses") from None
    return address


class BentomlSpec(OwnServerSpec):
    """That node as a service of BentoML."""

    engine: Literal["bentoml"]  # our own server inside BentoML
    address: Annotated[PlainAddress, AfterValidator(_with_ip)]  # with an IP address and no name


class TritonSpec(OneAddressSpec):
    """One tritonserver, with the archives of this machine. No token: keep its address from other machines."""

    protocol: ClassVar[str] = TRITON

    engine: Literal["triton"]  # tritonserver
    gpus: Annotated[int, Field(ge=0, le=64)] = 0  # that its workers are dealt to; 0: they compute on the CPU


class VllmSpec(OwnServerSpec):
    """Servers of vLLM, one for each version, on ports of their own; `address` is where tsctl asks for changes."""

    places: ClassVar[frozenset[str]] = BaseNodeSpec.places | {"ports"}

    engine: Literal["vllm"]  # vLLM's own server for each version
    #: The first and the last port of versions; None: the 8 ports after that of `address`.
    ports: Annotated[tuple[Port, Port], Field(strict=False)] | None = None
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 0.9  # of a GPU's memory, for each version; without a GPU unused

    @model_validator(mode="after")
    def _check_ports(self) -> VllmSpec:
        first, last = self.version_ports
        own = urlsplit(self.address).port or 0
        if not (first <= last <= 65_535 and last - first < MOST_PORTS):
            raise ValueError(f"ports must be the first and the last one, at most {MOST_PORTS}, got {first} and {last}")
        if first <= own <= last:
            raise ValueError(f"ports {first} to {last} hold the port of address, {own}")
        return self

    @property
    def version_ports(self) -> tuple[int, int]:
        """The first and the last port of versions."""
        own = urlsplit(self.address).port or 0
        return self.ports or (own + 1, own + MOST_SERVERS)

    @property
    def listens_on(self) -> tuple[int, ...]:
        first, last = self.version_ports
        return (*super().listens_on, *range(first, last + 1))


class RaySpec(BaseNodeSpec):
    """A Ray cluster, of which Serve's applications are the versions; `address` is where its dashboard answers.

    `tsctl node start` starts a cluster of one machine where the address is on loopback. Another cluster is yours, and
    tsctl deploys to it. `key_file` holds the cluster's token, where it wants one.
    """

    places: ClassVar[frozenset[str]] = BaseNodeSpec.places | {"proxy_port"}

    engine: Literal["ray"]  # Ray Serve
    address: PlainAddress  # of Ray's dashboard, which has Serve's REST API; on the head node
    proxy_port: Port | None = None  # of Ray's proxies, on every Ray node; None: the port after that of `address`
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None  # of a cluster started here; None: the machine's
    python: str | None = None  # of the workers, on every Ray node; None: on a cluster started here tsctl's, else Ray's

    @property
    def port_of_proxies(self) -> int:
        return self.proxy_port or (urlsplit(self.address).port or 0) + 1

    @property
    def url(self) -> str:
        host = urlsplit(self.address).hostname or ""
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port_of_proxies}"

    @property
    def listens_on(self) -> tuple[int, ...]:
        return (urlsplit(self.address).port or 0, self.port_of_proxies)


def _with_engine(content: Any) -> Any:
    """The node's content; without the key `engine` it is TorchServe's."""
    return {"engine": "torchserve", **content} if isinstance(content, dict) else content


NodeSpec = Annotated[
    Annotated[
        TorchServeSpec | UvicornSpec | TritonSpec | BentomlSpec | VllmSpec | RaySpec, Field(discriminator="engine")
    ],
    BeforeValidator(_with_engine),
]
