"""Envoy itself checks what is rendered, and says why it does not take what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import certificate
from tests.unit.test_gateway_render import CLIENTS, ROUTES, SHADOWS, SPEC, TRAFFIC, UPSTREAMS
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import GatewayError
from tsctl.gateway.envoy.process import validate
from tsctl.gateway.envoy.render import clusters, health, listeners, openai, routes
from tsctl.gateway.envoy.render.overload import Bounds
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.state import Gateway
from tsctl.host.files import make_folder, write_document


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """The files of the golden deployment, with a certificate that exists."""
    project = Project(tmp_path)
    files = GatewayFiles(project.state / "gateway")
    for folder in files.folders:
        make_folder(folder)
    certificate(tmp_path / "tls", "test")
    pair = [(tmp_path / "tls" / name).read_text() for name in ("server.pem", "server.key")]
    for path, content in (
        (files.bootstrap, listeners.bootstrap(SPEC, files, Bounds(20_000, 1 << 30, 1 << 30))),
        (files.certificate, listeners.certificate(*pair)),
        (files.clusters, clusters.clusters(UPSTREAMS, ROUTES, SHADOWS)),
        (files.routes, routes.routes(SPEC, ROUTES, TRAFFIC, CLIENTS)),
        (files.ready, health.ready(TRAFFIC)),
        (files.tokens, openai.tokens({})),
    ):
        write_document(path, content)
    return Gateway(project, DeploymentSpec(nodes={"a": TorchServeSpec()}), SPEC, files)


def test_envoy_takes_every_document(gateway: Gateway) -> None:
    validate(gateway)


def _of_no_cluster(content: dict[str, Any]) -> None:
    host = content["resources"][0]["virtual_hosts"][0]
    first = next(route["route"] for route in host["routes"] if "weighted_clusters" in route.get("route", ()))
    first["weighted_clusters"]["clusters"][0]["name"] = "no~cluster"


def _with_two_equal_keys(content: dict[str, Any]) -> None:
    keys = content["resources"][0]["virtual_hosts"][0]["typed_per_filter_config"]["api_key_auth"]
    keys["credentials"] *= 2


def _with_a_word_that_envoy_lacks(content: dict[str, Any]) -> None:
    content["resources"][0]["virtual_hosts"][0]["rootes"] = []


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (_of_no_cluster, "unknown (weighted )?cluster 'no~cluster'"),
        (_with_two_equal_keys, "[Dd]uplicate"),
        (_with_a_word_that_envoy_lacks, "rootes"),
    ],
)
def test_envoy_says_why_it_does_not_take_a_broken_one(
    gateway: Gateway, breaks: Callable[[dict[str, Any]], None], reason: str
) -> None:
    content = json.loads(gateway.files.routes.read_text())
    breaks(content)
    write_document(gateway.files.routes, content)
    with pytest.raises(GatewayError, match=f"Envoy refuses the files: .*{reason}"):
        validate(gateway)


def test_a_folder_without_all_files_is_told(gateway: Gateway) -> None:
    gateway.files.ready.unlink()
    with pytest.raises(GatewayError, match="a file of Envoy is missing in"):
        validate(gateway)
