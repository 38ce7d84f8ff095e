"""A node of the engine bentoml: what tsctl asks of every node, on one process of BentoML's application."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from pydantic import TypeAdapter

from handlers.contract import MODEL_VERSION_HEADER
from tests.support.engines import give_engine
from tests.support.sites import Site, is_alive, make_site, processes_of, until, write_tiny
from tsctl.archive.build import build_versions
from tsctl.archive.store import StoredArchive, find_archive
from tsctl.config.nodes import NodeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.ports import free_ports
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_node, served_at_start
from tsctl.nodes.node import Node, NotRunning, Unreachable

START_S = 60.0
HALF = b'{"x": 0.5}'
SLOW_S = 1.5


def ignore(text: str) -> None:
    """Drop a note."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project with the engine, and archives of a model that can be slow or wrong."""
    made = make_site(tmp_path_factory.mktemp("bentoml-node") / "site")
    give_engine(made, "bentoml")
    slow = {"slow_above": 10.0, "slow_s": SLOW_S}
    write_tiny(made, "tiny", {"1.0": slow, "2.0": {"factor": 3.0}})
    write_tiny(made, "wrong", {"1.0": {}}, golden=17.0)
    build_versions(Project(made.root), None, Progress())
    yield made
    assert processes_of(made.root) == [], "processes are left behind"


def open_at(site: Site, port: int, name: str = "b", host: str = "127.0.0.1") -> Node:
    spec = TypeAdapter(NodeSpec).validate_python({"engine": "bentoml", "address": f"http://{host}:{port}"})
    return open_node(Project(site.root), name, spec)


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Node]:
    """A node that serves tiny 1.0."""
    [port] = free_ports(1)
    opened = open_at(site, port)
    opened.start(Project(site.root), Progress())
    try:
        opened.register(archive(site, "tiny", "1.0"), "1.0", 1, ignore)
        yield opened
    finally:
        opened.stop(Progress())


def archive(site: Site, model: str, version: str) -> StoredArchive:
    return find_archive(Project(site.root), model, version)


def ask(node: Node, version: str = "1.0", body: bytes = HALF) -> requests.Response:
    headers = {"content-type": "application/json", "authorization": f"Bearer {node.token()}"}
    return requests.post(f"{node.spec.url}{node.path('tiny', version)}", body, headers=headers, timeout=30)


def test_a_version_answers_with_the_nodes_token_alone(node: Node) -> None:
    answer = ask(node)
    assert (answer.status_code, answer.json(), answer.headers[MODEL_VERSION_HEADER]) == (200, {"y": 1.0}, "1.0")
    for path in (node.path("tiny", "1.0"), "/metrics", "/admin/versions"):
        assert requests.get(f"{node.spec.url}{path}", timeout=30).status_code == 401
    assert ask(node, "7.0").status_code == 404
    assert node.predict("tiny", "1.0", HALF, "application/json").status == 200


def test_register_twice_wrong_answers_and_a_stock_archive_are_refused(node: Node, site: Site) -> None:
    tiny = archive(site, "tiny", "1.0")
    with pytest.raises(NodeError, match="already registered"):
        node.register(tiny, "1.0", 1, ignore)
    with pytest.raises(NodeError, match=r"sample half\.json"):
        node.register(archive(site, "wrong", "1.0"), "1.0", 1, ignore)
    assert node.version("wrong", "1.0") is None
    assert list(node.models()) == ["tiny"]
    assert node.cannot(tiny, "1.0t") == ""


def test_the_same_bytes_are_another_version_which_scales_and_drains(node: Node, site: Site) -> None:
    node.register(archive(site, "tiny", "1.0"), "1.0b", 1, ignore)
    assert ask(node, "1.0b").headers[MODEL_VERSION_HEADER] == "1.0b"
    scaled = node.scale("tiny", "1.0b", 2, ignore)
    assert len(scaled.pids) == 2 and all(map(is_alive, scaled.pids))
    with ThreadPoolExecutor(1) as pool:
        at_hand = pool.submit(ask, node, "1.0b", b'{"x": 11}')
        until(lambda: threading.active_count() > 1 and not at_hand.done(), 5, "the request is sent")
        threading.Event().wait(SLOW_S / 3)
        assert node.unregister("tiny", "1.0b")
        assert at_hand.result().json() == {"y": 22.0}
    assert node.version("tiny", "1.0b") is None
    until(lambda: not any(map(is_alive, scaled.pids)), 10, "its workers have ended")


def test_a_killed_worker_starts_anew(node: Node) -> None:
    [worker] = node.require_version("tiny", "1.0").pids
    os.kill(worker, signal.SIGKILL)
    until(lambda: node.require_version("tiny", "1.0").pids not in ((), (worker,)), START_S, "another worker is ready")
    assert ask(node).status_code == 200


def test_a_killed_node_leaves_nothing_and_serves_the_same_when_it_is_started(node: Node, site: Site) -> None:
    project = Project(site.root)
    [worker] = node.require_version("tiny", "1.0").pids
    assert node.pid is not None
    os.kill(node.pid, signal.SIGKILL)
    until(lambda: not is_alive(worker), 10, "its worker has ended with it")
    with pytest.raises((Unreachable, NotRunning)):
        node.models()
    assert ("b", archive(site, "tiny", "1.0").path.name) in served_at_start(project)
    node.start(project, Progress())
    restored = node.restore(project, Progress(), frozenset())
    assert (restored.served, restored.failed) == ((("tiny", "1.0"),), ())
    assert ask(node).json() == {"y": 1.0}


def test_what_stands_in_the_way_of_a_start_is_said(node: Node, site: Site) -> None:
    project = Project(site.root)
    port = node.spec.listens_on[0]
    with pytest.raises(NodeError, match=f"port {port} .* is in use"):
        open_at(site, port, "second").start(project, Progress())
    with pytest.raises(NodeError, match="runs already"):
        node.start(project, Progress())
    with pytest.raises(ValueError, match="must have an IP address and not a name"):
        open_at(site, port, host="localhost")
    engines = project.state / "engines"
    engines.rename(engines.with_name("aside"))
    try:
        with pytest.raises(NodeError, match="engine bentoml is not installed") as raised:
            open_at(site, free_ports(1)[0], "third").start(project, Progress())
        assert raised.value.hint == "Run: tsctl engines install bentoml"
    finally:
        engines.with_name("aside").rename(engines)


def test_its_log_says_what_happened(node: Node, site: Site, tmp_path: Path) -> None:
    log = "".join(path.read_text() for path in node.logs)
    assert "tiny 1.0 serves" in log and "wrong 1.0 must not serve" in log
    shutil.copytree(node.metrics_folder, tmp_path / "metrics")
    assert list((tmp_path / "metrics").glob("*.db")), "the workers' metrics are where 'tsctl metrics' reads them"
