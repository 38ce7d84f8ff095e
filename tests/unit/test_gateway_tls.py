"""A certificate is taken together with its key, however the two files are replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.gateways import certificate
from tsctl.config.deployment import DeploymentSpec, GatewaySpec, TlsFiles
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import GatewayError
from tsctl.gateway.state import Gateway, open_gateway
from tsctl.gateway.tls import put_certificate
from tsctl.host.files import make_folder


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """With its certificate in one folder and its key in another, and two more pairs beside them."""
    for name in ("first", "second"):
        certificate(tmp_path / name, name)
    (tmp_path / "tls").mkdir()
    (tmp_path / "keys").mkdir()
    tls = TlsFiles(certificate="tls/server.pem", key="keys/server.key")
    spec = GatewaySpec(address="https://127.0.0.1:8443", tls=tls)
    made = open_gateway(Project(tmp_path), DeploymentSpec(nodes={"a": TorchServeSpec()}, gateway=spec))
    make_folder(made.files.folder)
    return made


def copy(gateway: Gateway, pair: str, *parts: str) -> None:
    root = gateway.project.root
    places = {"server.pem": root / "tls" / "server.pem", "server.key": root / "keys" / "server.key"}
    for part in parts or places:
        shutil.copyfile(root / pair / part, places[part])


def in_force(gateway: Gateway) -> str:
    secret = json.loads(gateway.files.certificate.read_text())["resources"][0]["tls_certificate"]
    texts = [secret[name]["inline_string"] for name in ("certificate_chain", "private_key")]
    return "\n".join(texts)


def pair(gateway: Gateway, name: str) -> str:
    return "\n".join((gateway.project.root / name / part).read_text() for part in ("server.pem", "server.key"))


def test_a_pair_is_taken_when_both_files_are_new_and_not_before(gateway: Gateway) -> None:
    copy(gateway, "first")
    assert put_certificate(gateway)
    assert not put_certificate(gateway)
    assert in_force(gateway) == pair(gateway, "first")
    assert gateway.files.certificate.stat().st_mode & 0o777 == 0o600
    copy(gateway, "second", "server.pem")
    with pytest.raises(GatewayError, match=r"(?i)server\.key cannot be used: .*mismatch"):
        put_certificate(gateway)
    assert in_force(gateway) == pair(gateway, "first")
    copy(gateway, "second", "server.key")
    assert put_certificate(gateway)
    assert in_force(gateway) == pair(gateway, "second")


@pytest.mark.parametrize("content", [b"", b"no PEM", b"\xff\xfe", None])
def test_files_that_are_no_pair_are_told(gateway: Gateway, content: bytes | None) -> None:
    copy(gateway, "first")
    path = gateway.project.root / "tls" / "server.pem"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(GatewayError, match=r"tls/server\.pem"):
        put_certificate(gateway)
