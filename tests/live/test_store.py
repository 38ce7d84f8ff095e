"""Archives of a bucket: a node on another machine pulls what it is to serve, and a plan refuses what is not right."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from tests.support.bucket import Bucket, a_bucket
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, make_site, until, write_tiny
from tsctl.archive.store import find_archive, list_archives
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node as BaseNode

BUCKET = "archives"
SECRET = "key-of-the-test-that-nothing-prints"
VERSIONS = {"1.0": {"workers": 1}, "2.0": {"workers": 1}}


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(BUCKET) as made:
        yield made


def deployment(port: int, **node: Any) -> dict[str, Any]:
    return {
        "nodes": {"far": {"engine": "uvicorn", "address": f"http://127.0.0.1:{port}", **node}},
        "store": {"address": f"s3://{BUCKET}/site", "options": {"key": "test", "secret": "${STORE_SECRET}"}},
    }


@pytest.fixture
def builder(tmp_path: Path, bucket: Bucket) -> Site:
    """The machine that builds archives; it has no node."""
    site = make_site(tmp_path / "builder")
    site.environment.update({**bucket.environment, "STORE_SECRET": SECRET})
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {"factor": 4.0}})
    return site


@pytest.fixture
def far(tmp_path: Path, bucket: Bucket) -> Iterator[Site]:
    """The machine with the node: it has the address of the store, and no archive."""
    site = make_site(tmp_path / "far")
    [port] = free_ports(1)
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(deployment(port)))
    site.environment.update({**bucket.environment, "STORE_SECRET": SECRET})
    site.run("node", "start")
    yield site
    site.run("node", "stop")


def folder(far: Site) -> Path:
    return far.root / ".tsctl" / "nodes" / "far"


def operate(site: Site, far: Site, *versions: str) -> None:
    """Write the deployment of an operator, who reaches the node of the other machine by its key file."""
    port = int(far.deployment["nodes"]["far"]["address"].rpartition(":")[2])
    content = deployment(port, key_file=str(folder(far) / "key_file.json"))
    content["models"] = {"tiny": {"default": versions[0], "versions": {one: VERSIONS[one] for one in versions}}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content))


def answer(far: Site, version: str) -> Any:
    token = json.loads((folder(far) / "key_file.json").read_text())["inference"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    address = far.deployment["nodes"]["far"]["address"]
    return requests.post(f"{address}/predictions/tiny/{version}", HALF, headers=headers, timeout=30).json()


def test_a_node_on_another_machine_pulls_what_it_is_to_serve(
    builder: Site, far: Site, bucket: Bucket, tmp_path: Path
) -> None:
    operate(builder, far, "1.0")
    builder.run("archive", "build")
    assert [row["outcome"] for row in builder.run("archive", "push", "tiny", "--json").json()] == ["pushed"] * 2
    assert [row["outcome"] for row in builder.run("archive", "push", "--json").json()] == ["there already"]
    bare = make_site(tmp_path / "operator")
    bare.environment.update(builder.environment)
    operate(bare, far, "1.0")
    assert "pulled from the store" in bare.run("plan", status=12).out
    assert list_archives(Project(far.root)) == []
    bare.run("apply")
    assert answer(far, "1.0") == {"y": 1.0}
    assert [archive.version for archive in list_archives(Project(far.root))] == ["1.0"]
    assert bare.run("plan").out.strip() == "nothing to change"

    # whatever its machine loses, the node serves the same after a start
    psutil.Process(json.loads((folder(far) / "node.json").read_text())["pid"]).send_signal(signal.SIGKILL)
    for place in (far.root / "archives" / "store", folder(far) / "archives"):
        shutil.rmtree(place)
    until(lambda: not far.run("node", "running", "--json", status=None).json(), 30, "the end of the node")
    far.run("node", "start")
    assert answer(far, "1.0") == {"y": 1.0}

    # wrong bytes in the bucket are refused before anything is changed
    [second] = [row for row in bare.run("archive", "list", "--remote", "--json").json() if row["version"] == "2.0"]
    bucket.replace(f"site/blobs/{second['digest']}", b"x" * second["bytes"])
    operate(bare, far, "1.0", "2.0")
    refused = bare.run("apply", status=3)
    assert f"{second['digest']} has the SHA-256 " in refused.err
    assert bare.run("models", "list", "--node", "far", "--json").json()[0]["version"] == "1.0"
    bucket.stop()
    away = bare.run("plan", status=3)
    bucket.start()
    assert f"the store s3://{BUCKET}/site cannot be reached: " in away.err
    for path in tmp_path.rglob("*"):
        is_for_its_owner = path.name == "fetch.json" and path.stat().st_mode & 0o777 == 0o600
        if path.is_file() and path.suffix in (".json", ".log", ".yaml") and not is_for_its_owner:
            assert SECRET not in path.read_text(errors="replace"), path


def test_torchserve_on_another_machine_gets_what_a_follower_beside_it_pulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, operator = make_site(tmp_path / "far"), make_site(tmp_path / "operator")
    shared = {"store": str(tmp_path / "shared")}
    (far.root / "deployment.yaml").write_text(yaml.safe_dump({**far.deployment, **shared}))
    nodes = {"local": {**far.deployment["nodes"]["local"], "key_file": str(far.folder / "key_file.json")}}
    (operator.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": nodes, **shared}))
    write_tiny(operator, "tiny", {"1.0": {}})
    operator.run("archive", "build")
    operator.run("archive", "push", "tiny")
    project = Project(operator.root)
    archive = find_archive(project, "tiny", "1.0")
    notes: list[str] = []
    far.run("node", "start")
    try:
        [node] = open_nodes(project, read_deployment(project.deployment))
        monkeypatch.setattr(BaseNode, "is_here", False)  # its address is one of this machine
        with pytest.raises(NodeError) as refused:
            node.register(archive, "1.0", 1, notes.append, 0.1)
        assert f"There: tsctl archive pull tiny:1.0@{archive.digest}" in refused.value.hint

        with far.start("archive", "pull", "tiny", "--every", "1") as follower:
            node.register(archive, "1.0", 1, notes.append, 60)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(30) == 130
        assert far.ask("tiny/1.0", HALF).json() == {"y": 1.0}

        psutil.Process(far.pid).kill()
        shutil.rmtree(far.root / "archives" / "store")
        until(lambda: not far.is_running, 30, "the end of the node")
        far.run("node", "start")
        assert far.ask("tiny/1.0", HALF).json() == {"y": 1.0}
    finally:
        far.run("node", "stop")
