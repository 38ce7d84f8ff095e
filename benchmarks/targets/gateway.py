"""A gateway without nodes of its own: its versions are answered by nothing, or by one server with a fixed answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.client import Address
from benchmarks.harness.commands import require_tsctl
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.render.upstreams import Endpoint, Probe, Upstream
from tsctl.gateway.files import running_pid
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.start import local_key
from tsctl.gateway.state import Gateway, changing, open_gateway
from tsctl.gateway.traffic import Traffic, only
from tsctl.host.ports import free_ports
from tsctl.host.process import memory_bytes

VERSION = "1.0"
JSON = "application/json"
PROBE = Probe(b'{"x": 0.5}', JSON)


@contextmanager
def bare_gateway(
    project: Project, folder: Path, inference: str | None = None, budget: Mapping[str, int] | None = None
) -> Iterator[Gateway]:
    """A running gateway whose only node, of the name n0, is not started.

    Args:
        folder: a project is made there.
        inference: the address of the node; None: nothing listens there.
        budget: of clients, as in deployment.yaml.
    """
    own = own_project(project, folder)
    address, metrics = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    node = free_spec("torchserve").model_dump(mode="json") | ({"inference": inference} if inference else {})
    gateway: dict[str, Any] = {"address": address, "metrics": metrics, **({"budget": dict(budget)} if budget else {})}
    own.deployment.write_text(yaml.safe_dump({"nodes": {"n0": node}, "models": {}, "gateway": gateway}), "utf-8")
    require_tsctl(own, "gateway", "start")
    try:
        yield open_gateway(own, read_deployment(own.deployment))
    finally:
        require_tsctl(own, "gateway", "stop")


def upstreams(gateway: Gateway, models: int, versions: Sequence[str] = (VERSION,)) -> list[Upstream]:
    """These versions of the models m0, m1 and so on, all on the node."""
    [node] = gateway.nodes()
    places = (Endpoint(node.name, "127.0.0.1", node.spec.listens_on[0], None),)
    return [Upstream(f"m{number}", version, places, PROBE) for number in range(models) for version in versions]


def put(gateway: Gateway, served: Sequence[Upstream], traffic: Sequence[Traffic] | None = None) -> None:
    """The gateway has these versions and this traffic; None: every model's traffic goes to VERSION."""
    routed = [only(upstream.model, VERSION) for upstream in served if upstream.version == VERSION]
    with changing(gateway):
        put_clusters(gateway, served, routed if traffic is None else traffic)
        put_routes(gateway, routed if traffic is None else traffic)


def envoy_pid(gateway: Gateway) -> int:
    """Envoy's process; raises GatewayError where it does not run."""
    pid = running_pid(gateway.files.envoy_record)
    if pid is None:
        raise GatewayError("Envoy does not run")
    return pid


def envoy_bytes(gateway: Gateway) -> int:
    """Envoy's resident memory; raises GatewayError where it does not run."""
    return memory_bytes(envoy_pid(gateway)) or 0


def asked_at(gateway: Gateway, model: str) -> Address:
    """The model's path, with the key of this machine's user."""
    key = local_key(gateway).read_text(encoding="utf-8").strip().partition(": ")[2]
    return Address(f"{gateway.spec.address}/predictions/{model}", {"x-api-key": key, "Content-Type": JSON})
