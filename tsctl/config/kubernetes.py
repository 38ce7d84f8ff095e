"""The schema of `kubernetes` in `deployment.yaml`: how versions run on a cluster, and who keeps their weights there."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tsctl.config.spec import ModelName, ModelVersion, SpecModel

#: A name of an object that DNS can hold as one part of a name.
DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
#: A name of an object, or of a host.
DnsName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253)
]
#: An image: a registry and folders, a name, and a tag or a digest or both.
_IMAGE = re.compile(
    r"[a-z0-9]+([.\-][a-z0-9]+)*(:[0-9]{1,5}(?=/))?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)

_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]{1,3})?)(?P<unit>m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def _cpu(value: str) -> str:
    match = _QUANTITY.fullmatch(value)
    if match is None or match["unit"] not in (None, "m") or not float(match["number"]):
        raise ValueError('must be a number of cores such as "2" or "500m"')
    if match["unit"] == "m" and "." in match["number"]:
        raise ValueError("must be whole thousandths of a core, such as 500m: Kubernetes knows no smaller part")
    return value


def _memory(value: str) -> str:
    match = _QUANTITY.fullmatch(value)
    if match is None or match["unit"] in (None, "m", "k") or not float(match["number"]):
        raise ValueError("must be a number of bytes with its unit, such as 2Gi or 512Mi")
    return value


def _image(value: str) -> str:
    match = _IMAGE.fullmatch(value)
    if match is None or not (match["tag"] or match["digest"]):
        raise ValueError("must be an image with its tag or digest, such as registry.example.com/team/node:3f2a")
    if match["tag"] == ":latest" and not match["digest"]:
        raise ValueError("must not be latest, which is another image tomorrow")
    return value


def _hostname(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        return value
    raise ValueError("must be a name and no IP address")


Image = Annotated[str, AfterValidator(_image)]
Cpu = Annotated[str, AfterValidator(_cpu)]
Memory = Annotated[str, AfterValidator(_memory)]
Replicas = Annotated[int, Field(ge=1, le=1000)]
#: A host, or all hosts below one: `*.example.com`.
Hostname = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253
    ),
    AfterValidator(_hostname),
]


class KubernetesModel(SpecModel):
    """What the pods of one model have, in place of the deployment's."""

    images: dict[ModelVersion, Image] = {}  # by version; a version without one has the deployment's

    cpu: Cpu | None = None  # cores of a pod; None: the deployment's
    memory: Memory | None = None  # of a pod; None: the deployment's
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None  # of a pod; None: the deployment's
    min_replicas: Replicas | None = None  # pods of each version; None: the deployment's
    max_replicas: Replicas | None = None  # pods of each version, at most; None: the deployment's


class KubernetesSpec(SpecModel):
    """How `tsctl render kubernetes` renders the deployment; docs/kubernetes.md has the whole."""

    #: Where weights are kept: in the gateway of this machine, or in HTTPRoutes, which `tsctl` then changes.
    traffic: Literal["envoy", "httproute"] = "envoy"
    context: str | None = None  # of the kubeconfig; None: the current one, and inside a cluster that of the pod
    namespace: DnsLabel = "tsctl"  # of all objects
    engine: Literal["uvicorn", "torchserve"] = "uvicorn"  # the server in the images
    #: The node's image that `tsctl render image` describes, with the archives of all versions without one of their own.
    image: Image | None = None
    cpu: Cpu = "1"  # cores of a pod
    memory: Memory = "2Gi"  # of a pod
    gpus: Annotated[int, Field(ge=0, le=64)] = 0  # of a pod
    min_replicas: Replicas = 2  # pods of each version
    max_replicas: Replicas = 10  # pods of each version, at most; as many as min_replicas: no autoscaler
    #: The share of its workers that is busy in each pod, which the autoscaler keeps to.
    busy: Annotated[float, Field(gt=0, le=1)] = 0.7
    models: dict[ModelName, KubernetesModel] = {}  # by name
    gateway: DnsName = "tsctl"  # the Gateway to which routes attach
    gateway_namespace: DnsLabel | None = None  # of the Gateway; None: `namespace`
    gateway_class: DnsName | None = None  # of the Gateway that is rendered; None: none is, because it exists
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16, strict=False)] = ()  # of routes; none: every host
    tls_secret: DnsName | None = None  # the Secret with the Gateway's certificate and key; None: no TLS
    #: Workers are told which track their version plays; needs filters of single versions, which not every gateway has.
    track_header: bool = False
    grpc: bool = False  # pods and a GRPCRoute serve the Open Inference Protocol over gRPC as well
    #: Namespaces whose pods may reach the workers: those of the Gateway's proxies and of Prometheus; none: all may.
    allow_from: Annotated[tuple[DnsLabel, ...], Field(strict=False)] = ()
    #: What this file asks of the gateway, a cluster's does not do, and whoever renders does without.
    without: Annotated[tuple[Literal["budget", "engine_header", "sticky"], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check_replicas(self) -> KubernetesSpec:
        for model in (None, *self.models):
            pods = self.pods(model or "")
            if pods.min_replicas > pods.max_replicas:
                of = f"models.{model}: " if model else ""
                raise ValueError(f"{of}min_replicas {pods.min_replicas} is more than max_replicas {pods.max_replicas}")
        return self

    @model_validator(mode="after")
    def _check_gateway(self) -> KubernetesSpec:
        if self.gateway_class is not None and self.gateway_namespace not in (None, self.namespace):
            raise ValueError("gateway_class renders a Gateway in `namespace`: leave gateway_namespace out")
        if self.grpc and self.traffic == "httproute":
            raise ValueError("grpc makes GRPCRoutes, whose weights tsctl does not change: leave it or traffic out")
        if self.grpc and self.engine == "torchserve":
            raise ValueError(
                "grpc needs engine uvicorn: TorchServe has a gRPC API of its own, and not the Open Inference Protocol"
            )
        if self.tls_secret is not None and self.gateway_class is None:
            raise ValueError("tls_secret is of the Gateway that gateway_class renders; without one, name it there")
        return self

    def image_of(self, model: str, version: str) -> str | None:
        """The image of a version's pods; None: the file names none."""
        own = self.models.get(model)
        return (own.images.get(version) if own is not None else None) or self.image

    def pods(self, model: str) -> PodSettings:
        """What the pods of a model have."""
        own = self.models.get(model, KubernetesModel())
        return PodSettings(
            cpu=own.cpu or self.cpu,
            memory=own.memory or self.memory,
            gpus=self.gpus if own.gpus is None else own.gpus,
            min_replicas=own.min_replicas or self.min_replicas,
            max_replicas=own.max_replicas or self.max_replicas,
        )


class PodSettings(SpecModel):
    """What the pods of one model have, with every default filled in."""

    cpu: Cpu
    memory: Memory
    gpus: int
    min_replicas: int
    max_replicas: int
