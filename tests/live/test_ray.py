"""A Ray cluster of one machine behind the gateway; tests/ray has the longer cases (`make test-ray`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from handlers.contract import MODEL_VERSION_HEADER, PROBLEM_MEDIA_TYPE
from tests.support.engines import give_engine
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, make_site, processes_of, until, write_tiny
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.gateway.start import local_key
from tsctl.gateway.state import open_gateway


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A cluster with version 1.0, and the gateway before it."""
    site = make_site(tmp_path_factory.mktemp("ray") / "site")
    write_tiny(site, "tiny", {"1.0": {}})
    give_engine(site, "ray")
    dashboard, proxies, client, metrics = free_ports(4)
    node = {"engine": "ray", "address": f"http://127.0.0.1:{dashboard}", "proxy_port": proxies, "cpus": 4}
    content = {
        "nodes": {"cluster": node},
        "gateway": {"address": f"http://127.0.0.1:{client}", "metrics": f"http://127.0.0.1:{metrics}"},
        "models": {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1, "ray": {"num_cpus": 0.5}}}}},
    }
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content))
    try:
        site.run("archive", "build")
        site.run("node", "start")
        site.run("apply")
        site.run("gateway", "start")
        yield site
    finally:
        site.run("gateway", "stop", status=None)
        site.run("down", status=None)
    assert processes_of(site.root) == []


def ask(site: Site, body: bytes, path: str = "/predictions/tiny", **headers: str) -> requests.Response:
    project = Project(site.root)
    gateway = open_gateway(project, read_deployment(project.deployment))
    name, _, key = local_key(gateway).read_text().strip().partition(": ")
    sent = {name: key, "content-type": "application/json", **headers}
    return requests.post(gateway.spec.address + path, data=body, headers=sent, timeout=30)


def test_clients_get_from_ray_what_they_get_from_every_engine(site: Site) -> None:
    until(lambda: ask(site, HALF).status_code == 200, 30, "the cluster in rotation")
    answer = ask(site, HALF, **{"x-request-id": "mine"})
    assert (answer.json(), answer.headers[MODEL_VERSION_HEADER]) == ({"y": 1.0}, "1.0")
    assert answer.headers["x-request-id"] == "mine"
    bad = ask(site, b'{"x": "one"}', **{"x-request-id": "mine"})
    assert (bad.status_code, bad.headers["content-type"]) == (422, PROBLEM_MEDIA_TYPE)
    assert (bad.json()["request_id"], bad.json()["version"]) == ("mine", "1.0")
    status = site.run("status", "--json").json()
    assert status["is_ready"]


def test_a_changed_block_of_ray_is_planned_and_applied(site: Site) -> None:
    replicas = {"num_cpus": 0.25, "max_replicas": 2}
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1, "ray": replicas}}}})
    planned = site.run("plan", status=12)
    assert "configure" in planned.out
    assert "num_cpus 0.5, max_replicas none -> num_cpus 0.25, max_replicas 2" in planned.out
    site.run("apply")
    assert "nothing to change" in site.run("plan").out
    until(lambda: ask(site, HALF).status_code == 200, 30, "the new replica answers")


def test_a_cluster_that_is_stopped_serves_the_same_after_its_start(site: Site) -> None:
    site.run("node", "stop")
    gone = ask(site, HALF)
    assert (gone.status_code, gone.headers["content-type"]) == (503, PROBLEM_MEDIA_TYPE)
    started = site.run("node", "start")
    assert "restoring tiny 1.0" in started.out + started.err
    until(lambda: ask(site, HALF).status_code == 200, 30, "the cluster in rotation again")
    assert Path(site.root / ".tsctl" / "nodes" / "cluster" / "applications.json").is_file()
