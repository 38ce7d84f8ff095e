"""Images with all their packages: the command is typed, and every command of its Containerfiles runs as it is written.

Minutes, and a gigabyte: `make test-image`. `tests/live/test_images.py` has the cases, without pip's installation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.support.commands import run_command
from tests.support.containers import build, pip_conf, running
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, copy_archives, make_site

STATE = "/srv/tsctl/.tsctl"
METRICS = "0.0.0.0:9464"
RENDER_TIMEOUT_S = 400


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Removed afterwards: it takes gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("engine", ["uvicorn", "torchserve"])
def test_an_image_with_its_own_packages_serves(engine: str, folder: Path) -> None:
    site = make_site(folder / "team")
    copy_archives(site, "digits")
    site.run("archive", "build", "digits:1.0")
    ports = free_ports(5)
    nodes = {
        "uvicorn": {"engine": "uvicorn", "address": f"http://127.0.0.1:{ports[0]}"},
        "torchserve": {
            "inference": f"http://127.0.0.1:{ports[0]}",
            "management": f"http://127.0.0.1:{ports[1]}",
            "metrics": f"http://127.0.0.1:{ports[2]}",
            "grpc_ports": ports[3:],
        },
    }
    deployment = {
        "nodes": {"main": nodes[engine]},
        "models": {"digits": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}},
    }
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(deployment, sort_keys=False))
    context = folder / "images"
    ended = run_command(["render", "image", "--to", str(context)], site.root, os.environ, RENDER_TIMEOUT_S)
    assert ended.status == 0, ended.err
    secrets = {"pip.conf": pip_conf(folder / "pip.conf")}
    image = build(context, f"{engine}/Containerfile", folder / "built", lambda command: None, secrets)
    volumes = folder / "volumes"
    volumes.mkdir()
    with running(context / "compose.yaml", "node-main", image, volumes, {METRICS: "127.0.0.1:0"}) as node:
        node.wait_healthy()
        header = (node.folders[STATE] / "nodes" / "main" / "inference.header").read_text().strip()
        name, _, value = header.partition(": ")
        body = (CHECKOUT / "archives" / "digits" / "samples" / "digit-0.json").read_bytes()
        answer = requests.post(
            f"http://127.0.0.1:{ports[0]}/predictions/digits/1.0",
            body,
            headers={name: value, "content-type": "application/json"},
            timeout=60,
        )
        golden = json.loads((CHECKOUT / "archives" / "digits" / "golden" / "1.0.json").read_text())["digit-0.json"]
        assert answer.json()["label"] == golden["label"]
        assert node.stop() == 0, node.log.read_text()


def test_the_image_of_tsctl_and_the_gateway_has_both(folder: Path) -> None:
    site = make_site(folder / "team")
    copy_archives(site, "digits")
    site.run("archive", "build", "digits:1.0")
    context = folder / "images"
    command = ["render", "image", "digits:1.0", "--engine", "uvicorn", "--to", str(context)]
    assert run_command(command, site.root, os.environ, RENDER_TIMEOUT_S).status == 0
    secrets = {"pip.conf": pip_conf(folder / "pip.conf")}
    image = build(context, "gateway/Containerfile", folder / "built", lambda command: None, secrets)
    programs = image.root / "opt" / "tsctl" / "bin"
    assert (programs / "tsctl").is_file() and list((image.root / "opt" / "tsctl").glob("lib/*/site-packages/envoy"))
