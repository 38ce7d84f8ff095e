"""Images with all their packages: the command is typed, and every command of its Containerfiles runs as it is written.

Minutes, and gigabytes: `make test-image`. `tests/live/test_images.py` has the cases, without pip's installation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from tests.support.commands import run_command
from tests.support.containers import Image, build, pip_conf, running
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, copy_archives, make_site

STATE = "/srv/tsctl/.tsctl"
METRICS = "0.0.0.0:9464"
FREE_PORT = {METRICS: "127.0.0.1:0"}
RENDER_TIMEOUT_S = 450
NODES = {"uvicorn": "own", "torchserve": "serve"}


@dataclass
class Contexts:
    """What the command wrote, and the port of each node."""

    folder: Path
    ports: dict[str, int]

    def build(self, name: str) -> Image:
        """The image of this folder, by the settings of pip of this machine."""
        secrets = {"pip.conf": pip_conf(self.folder.parent / "pip.conf")}
        return build(
            self.folder, f"{name}/Containerfile", self.folder.parent / f"built-{name}", lambda _: None, secrets
        )


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contexts]:
    """Of digits on both engines; removed afterwards, because they take gigabytes."""
    folder = tmp_path_factory.mktemp("whole")
    site = make_site(folder / "team")
    copy_archives(site, "digits")
    site.run("archive", "build", "digits:1.0")
    own, serve, management, metrics, *grpc = free_ports(6)
    nodes = {
        "own": {"engine": "uvicorn", "address": f"http://127.0.0.1:{own}"},
        "serve": {
            "inference": f"http://127.0.0.1:{serve}",
            "management": f"http://127.0.0.1:{management}",
            "metrics": f"http://127.0.0.1:{metrics}",
            "grpc_ports": grpc,
        },
    }
    models = {"digits": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": nodes, "models": models}, sort_keys=False))
    ended = run_command(["render", "image", "--to", str(folder / "images")], site.root, os.environ, RENDER_TIMEOUT_S)
    assert ended.status == 0, ended.err
    yield Contexts(folder / "images", {"own": own, "serve": serve})
    shutil.rmtree(folder)


@pytest.mark.parametrize("engine", NODES)
def test_an_image_with_its_own_packages_serves(engine: str, contexts: Contexts) -> None:
    name = NODES[engine]
    image = contexts.build(engine)
    volumes = contexts.folder.parent / f"volumes-{engine}"
    volumes.mkdir()
    with running(contexts.folder / "compose.yaml", f"node-{name}", image, volumes, FREE_PORT) as node:
        node.wait_healthy()
        header, _, value = (
            (node.folders[STATE] / "nodes" / name / "inference.header").read_text().strip().partition(": ")
        )
        body = (CHECKOUT / "archives" / "digits" / "samples" / "digit-0.json").read_bytes()
        url = f"http://127.0.0.1:{contexts.ports[name]}/predictions/digits/1.0"
        answer = requests.post(url, body, headers={header: value, "content-type": "application/json"}, timeout=60)
        golden = json.loads((CHECKOUT / "archives" / "digits" / "golden" / "1.0.json").read_text())["digit-0.json"]
        assert answer.json()["label"] == golden["label"]
        assert node.stop() == 0, node.log.read_text()


def test_the_gateways_image_verifies_an_archive_with_its_own_packages(contexts: Contexts) -> None:
    image = contexts.build("gateway")
    volumes = contexts.folder.parent / "volumes-gateway"
    volumes.mkdir()
    idle = ["sleep", "600"]  # the nodes do not run
    with running(contexts.folder / "compose.yaml", "gateway", image, volumes, command=idle) as gateway:
        verified = gateway.execute("tsctl", "archive", "verify", "digits", timeout_s=200)
        assert verified.returncode == 0, f"{verified.stdout}{verified.stderr}"
        assert gateway.execute("envoy", "--version").returncode == 0
