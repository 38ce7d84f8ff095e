"""What `deployment.yaml` may say: nodes, and the versions of models that they serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tsctl.errors import SpecError
from tsctl.spec import ModelName, ModelVersion, SpecModel, read_spec


def _address(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port or parts.path.strip("/") or parts.query:
        raise ValueError("must be an address such as http://127.0.0.1:8080, with its port and without a path")
    return value.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]*$", max_length=40)]

_LOOPBACK = ("127.", "localhost", "::1")


class NodeSpec(SpecModel):
    """One TorchServe process and the addresses it answers on."""

    inference: Address = "http://127.0.0.1:8080"
    management: Address = "http://127.0.0.1:8081"
    metrics: Address = "http://127.0.0.1:8082"
    grpc_ports: tuple[Port, Port] = Field((7070, 7071), strict=False)  # inference, management; TorchServe opens both
    key_file: str | None = None  # TorchServe's key_file.json; None: where `tsctl node start` has it written

    @model_validator(mode="after")
    def _distinct(self) -> NodeSpec:
        ports = [*self.ports, *self.grpc_ports]
        if len(set(ports)) != len(ports):
            raise ValueError(f"the five ports must differ, found {', '.join(map(str, ports))}")
        return self

    @property
    def ports(self) -> tuple[int, int, int]:
        """HTTP ports: inference, management, metrics."""
        inference, management, metrics = (
            urlsplit(a).port or 0 for a in (self.inference, self.management, self.metrics)
        )
        return inference, management, metrics

    @property
    def host(self) -> str:
        return urlsplit(self.inference).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether `tsctl node start` may start it here."""
        return self.host.startswith(_LOOPBACK)


class VersionTarget(SpecModel):
    """How one version shall be served on every node."""

    workers: Annotated[int, Field(ge=1, le=256)] | None = None  # None: as the archive says


class ModelTarget(SpecModel):
    """Which versions of one model shall be served, and which answers callers that name none."""

    default: ModelVersion
    versions: Annotated[dict[ModelVersion, VersionTarget | None], Field(min_length=1)]

    @model_validator(mode="after")
    def _default_is_served(self) -> ModelTarget:
        if self.default not in self.versions:
            raise ValueError(f"default {self.default!r} is not one of the versions {', '.join(self.versions)}")
        return self

    def workers(self, version: str) -> int | None:
        """Workers asked for; None: as the archive says."""
        target = self.versions[version]
        return target.workers if target else None


class DeploymentSpec(SpecModel):
    """The whole file."""

    nodes: Annotated[dict[NodeName, NodeSpec], Field(min_length=1)]
    models: dict[ModelName, ModelTarget] = {}

    @model_validator(mode="after")
    def _nodes_differ(self) -> DeploymentSpec:
        taken: dict[tuple[str, int], str] = {}
        for name, node in self.nodes.items():
            for port in (*node.ports, *node.grpc_ports):
                other = taken.setdefault((node.host, port), name)
                if other != name:
                    raise ValueError(f"nodes {other} and {name} both have port {port} of {node.host}")
        return self

    def node(self, name: str | None) -> tuple[str, NodeSpec]:
        """The node of that name; None means the only one.

        Raises:
            SpecError: no such node, or none was named and there are several.
        """
        if name is None and len(self.nodes) == 1:
            return next(iter(self.nodes.items()))
        if name is None:
            raise SpecError(f"there are several nodes: {', '.join(self.nodes)}", "Name one with --node.")
        if name not in self.nodes:
            raise SpecError(f"no node {name!r} in deployment.yaml; it names {', '.join(self.nodes)}")
        return name, self.nodes[name]


def read_deployment(path: Path) -> DeploymentSpec:
    """`deployment.yaml` as a DeploymentSpec; SpecError names every mistake."""
    return read_spec(path, DeploymentSpec)
