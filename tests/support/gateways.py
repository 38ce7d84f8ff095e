"""A site's gateway: put into its deployment, and asked as a client asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from benchmarks.harness.client import Address
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, processes_of
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.headers import KEY_HEADER
from tsctl.gateway.state import Gateway, open_gateway

PROBLEM = "application/problem+json"


@dataclass
class Front:
    """A site with its gateway, as a client sees it."""

    site: Site
    base: str
    metrics: str
    key: str

    def ask(self, path: str, body: bytes = HALF, /, method: str = "POST", **headers: str) -> requests.Response:
        sent = {"Content-Type": "application/json", "x-api-key": self.key, **headers}
        return requests.request(method, self.base + path, data=body, headers=sent, timeout=30)

    def address(self, path: str) -> Address:
        """A route of the gateway, for a load client."""
        return Address(self.base + path, {KEY_HEADER: self.key, "content-type": "application/json"})

    @property
    def gateway(self) -> Gateway:
        project = Project(self.site.root)
        return open_gateway(project, read_deployment(project.deployment))

    def all_answer(self) -> bool:
        """Whether Envoy holds every version of every route for healthy."""
        rows = self.site.run("gateway", "status", "--json", status=None).json()["rows"]
        return all(row["healthy"] for row in rows)

    def pid(self, of: str) -> int:
        return int(json.loads((self.site.root / ".tsctl" / "gateway" / f"{of}.pid.json").read_text())["pid"])

    def log(self) -> list[dict[str, Any]]:
        return whole_lines(self.gateway.files.access_log)


def whole_lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a log of JSON, but for one that is only half written yet."""
    written, _, _ = log.read_text().rpartition("\n")
    return [json.loads(line) for line in written.splitlines()]


def front_of(site: Site, base: str, metrics: str) -> Front:
    """The site's running gateway, asked with the key that `tsctl` made for this machine."""
    header = (site.root / ".tsctl" / "gateway" / "local.header").read_text()
    return Front(site, base, metrics, header.strip().partition(": ")[2])


@contextmanager
def brought_up(site: Site, base: str, metrics: str) -> Iterator[Front]:
    """The site's node and gateway while the block runs; afterwards no process of theirs may be left."""
    try:
        site.run("up")
        yield front_of(site, base, metrics)
    finally:
        site.run("down", status=None)
    assert processes_of(site.root) == [], "processes are left behind"


def with_gateway(site: Site, route: dict[str, Any], **gateway: Any) -> tuple[str, str]:
    """Give the site's deployment a gateway on free ports, and the route to its model; both addresses."""
    client, metrics = free_ports(2)
    content = site.deployment
    scheme = "https" if "tls" in gateway else "http"
    base, numbers = f"{scheme}://127.0.0.1:{client}", f"http://127.0.0.1:{metrics}"
    content["gateway"] = {**content.get("gateway", {}), "address": base, "metrics": numbers, **gateway}
    for model in content["models"].values():
        model["route"] = route
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return base, numbers


def certificate(folder: Path, name: str) -> None:
    """A self-signed certificate for 127.0.0.1, renamed into place."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", folder / "key.new", "-out", folder / "certificate.new",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (folder / "key.new").rename(folder / "server.key")
    (folder / "certificate.new").rename(folder / "server.pem")
