"""The same cases on a node of every engine: what `tsctl.nodes.node.Node` says must be true, whoever serves.

One node per engine is started for all cases; a case leaves it without versions. An engine with an environment of its
own is installed into the checkout first. Here they are TorchServe and uvicorn; tests/engines has the same cases on
Triton and BentoML (`make test-engines`), and tests/ray on a Ray cluster (`make test-ray`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import yaml
from rich.console import Console

from handlers.contract import MODEL_VERSION_HEADER
from tests.support.engines import give_engine
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, is_alive, make_site, until, write_tiny
from tests.support.wheels import only_from, write_wheel
from tsctl.archive.build import build_versions
from tsctl.archive.store import StoredArchive, archive_of, import_archive
from tsctl.config.deployment import read_deployment
from tsctl.config.nodes import PLAIN
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, TsctlError
from tsctl.host.ports import port_problem
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.environments import ENGINES
from tsctl.nodes.node import Node
from tsctl.nodes.observed import Reply

QUIET = Progress(Console(quiet=True))
START_S = 40.0
#: What deployment.yaml says of a node of each engine, by the ports that are free.
SPECS: dict[str, Callable[[list[int]], dict[str, Any]]] = {
    "bentoml": lambda ports: {"address": f"http://127.0.0.1:{ports[0]}"},
    "torchserve": lambda ports: {
        **{
            name: f"http://127.0.0.1:{port}"
            for name, port in zip(("inference", "management", "metrics"), ports[:3], strict=True)
        },
        "grpc_ports": ports[3:5],
    },
    "ray": lambda ports: {"address": f"http://127.0.0.1:{ports[0]}", "proxy_port": ports[1], "cpus": 8},
    "uvicorn": lambda ports: {"address": f"http://127.0.0.1:{ports[0]}"},
    "triton": lambda ports: {"address": f"http://127.0.0.1:{ports[0]}"},
}
#: Engines whose cases are in folders of their own, because they take minutes.
ELSEWHERE = frozenset({"bentoml", "ray", "triton"})
VERSIONS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "2.0": {"factor": 3.0},
    "slow": {"inference_s": 0.3, "most": 1000.0},
    "crash": {"exit_in_load": 3},
    "wrong": {"factor": 5.0},  # its golden answer is another one
}


def note(text: str) -> None:
    """Progress is of no interest."""


def stored(project: Project, archive: StoredArchive) -> StoredArchive:
    """The archive at the place where it stays when another build of its version becomes the current one."""
    return archive_of(project.store / archive.path.name)


@dataclass
class Stage:
    """A node of one engine in a project with archives."""

    site: Site
    node: Node
    archives: dict[str, StoredArchive]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def project(self) -> Project:
        return Project(self.site.root)

    def start(self) -> None:
        self.processes.append(self.node.start(self.project, QUIET))

    def stop(self) -> bool:
        was_running = self.node.stop(QUIET)
        for process in self.processes:
            process.wait(10)
        return was_running

    def register(self, name: str, version: str | None = None, workers: int | None = 1) -> None:
        self.node.register(self.archives[name], version or name, workers, note, START_S)

    def ask(self, version: str | None, body: bytes = HALF) -> Reply:
        return self.node.predict("tiny", version, body, "application/json")

    def served(self) -> dict[str, int]:
        """READY workers by version."""
        models = self.node.models()
        return {name: one.ready for name, one in models["tiny"].versions.items()} if "tiny" in models else {}

    def pids(self, version: str) -> tuple[int, ...]:
        return self.node.require_version("tiny", version).pids

    def reset(self) -> None:
        """The node runs, and serves version 1.0 with one worker as the default, and nothing else."""
        if self.node.pid is None:
            self.start()
            self.node.restore(self.project, QUIET, frozenset())
        first = self.node.version("tiny", "1.0")
        if first is None or first.archive != self.archives["1.0"].path.name or not first.ready:
            self.node.forget_served()
            self._unregister(list(self.served()))
            self.register("1.0")
        else:
            if (first.workers, first.ready) != (1, 1):
                self.node.scale("tiny", "1.0", 1, note)
            if self.node.models()["tiny"].default != "1.0":
                self.node.set_default("tiny", "1.0")
        self._unregister([version for version in self.served() if version != "1.0"])

    def _unregister(self, versions: list[str]) -> None:
        default = self.node.models()["tiny"].default if versions else None
        for version in sorted(versions, key=lambda one: one == default):
            self.node.unregister("tiny", version)


@contextmanager
def started_stage(engine: str, folder: Path) -> Iterator[Stage]:
    """A started node of the engine in a new project, without versions, while the block runs."""
    site = make_site(folder / "site")
    spec = {"engine": engine, **SPECS[engine](free_ports(5))}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {"local": spec}, "models": {}}))
    write_tiny(site, "tiny", VERSIONS)
    (site.root / "archives" / "tiny" / "golden" / "wrong.json").write_text('{"half.json": {"y": 1.0}}')
    project = Project(site.root)
    built = build_versions(project, [f"tiny:{version}" for version in VERSIONS], QUIET)
    archives = {one.archive.version: stored(project, one.archive) for one in built}
    if engine in ENGINES:
        give_engine(site, engine)
    [node] = open_nodes(project, read_deployment(project.deployment))
    stage = Stage(site, node, archives)
    stage.start()
    try:
        yield stage
    finally:
        stage.stop()
    assert node.pid is None


@pytest.fixture(scope="module", params=sorted(SPECS.keys() - ELSEWHERE))
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started_stage(request.param, tmp_path_factory.mktemp(request.param)) as stage:
        yield stage


@pytest.fixture
def stage(started: Stage) -> Iterator[Stage]:
    started.reset()
    yield started


def require_counted(stage: Stage, outcomes: dict[str, int]) -> None:
    """The metrics have these requests of clients, and none of warm-up, golden samples and tsctl."""

    def counted() -> bool:
        [row] = [row for row in stage.site.run("metrics", "show", "--json").json() if row["version"] == "1.0"]
        assert sum(row["outcomes"].values()) <= sum(outcomes.values()), row
        return bool(row["outcomes"] == outcomes)

    until(counted, 20, "the workers' metrics on the disk")


def test_a_version_answers_at_its_address_with_its_own_headers(stage: Stage) -> None:
    node = stage.node
    observed = node.require_version("tiny", "1.0")
    assert (observed.archive, observed.workers, observed.ready) == (stage.archives["1.0"].path.name, 1, 1)
    assert len(observed.pids) == len(observed.ids) == 1
    assert is_alive(observed.pids[0])
    assert node.models()["tiny"].default == "1.0"
    assert (stage.ask(None).status, stage.ask("1.0").body) == (200, b'{"y":1.0}')
    assert node.describe("tiny", None)
    assert node.describe("tiny", "9.0") == []
    if node.protocol != PLAIN:
        require_counted(stage, {})
        return  # its answers come in an envelope, which the gateway takes off
    token = node.token()
    access = {"authorization": f"Bearer {token}"} if token else {}
    url = node.spec.url + node.path("tiny", "1.0")
    sent = {"content-type": "application/json", "x-request-id": "mine"}
    answer = requests.post(url, HALF, headers={**sent, **access}, timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    assert answer.headers[MODEL_VERSION_HEADER] == "1.0"  # the id in TorchServe's head is TorchServe's own
    bad = requests.post(url, b'{"x": "one"}', headers={**sent, **access}, timeout=10)
    assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")
    assert (bad.json()["model"], bad.json()["version"], bad.json()["request_id"]) == ("tiny", "1.0", "mine")
    require_counted(stage, {"ok": 1, "does-not-fit-schema": 1})
    if token:
        assert requests.post(url, HALF, headers=sent, timeout=10).status_code in (400, 401)
        assert requests.get(f"{node.spec.url}/metrics", timeout=10).status_code != 200


def test_a_client_s_id_finds_the_traceback_of_its_request(stage: Stage) -> None:
    node = stage.node
    stage.register("slow")
    ids = {"x-request-id": "who asked"} if node.protocol == PLAIN else {}
    token = node.token()
    access = {"authorization": f"Bearer {token}"} if token else {}
    body, media_type = b'{"x": 2000.0}', "application/json"
    if node.protocol == PLAIN:
        url = node.spec.url + node.path("tiny", "slow")
        failed = requests.post(url, body, headers={"content-type": media_type, **ids, **access}, timeout=20)
        assert failed.status_code == 500
    else:  # its own client sends no id that is known here
        assert stage.ask("slow", body).status == 500

    def lines(*options: str) -> list[str]:
        return stage.site.run("logs", "tiny:slow", *options).out.splitlines()

    asked = ("--request", "who asked") if ids else ()
    until(lambda: any("ValueError: this number is too large" in line for line in lines(*asked)), 20, "the traceback")
    found = lines(*asked)
    assert any("handler.py" in line and "line" in line for line in found), found
    assert any("Traceback (most recent call last)" in line for line in found), found
    if ids:
        assert all("[request who%20asked] " in line for line in found), found
    assert not [line for line in lines() if "tiny 1.0" in line or "tiny_1.0" in line]
    assert lines("--request", "nobody") == []


def test_a_version_is_registered_once(stage: Stage) -> None:
    with pytest.raises(NodeError, match=r"tiny 1\.0 is already registered on node local"):
        stage.register("1.0")
    assert not stage.node.ensure(stage.archives["1.0"], "1.0", 1, note)
    with pytest.raises(NodeError, match="with 1 workers"):
        stage.node.ensure(stage.archives["1.0"], "1.0", 2, note)
    assert stage.served() == {"1.0": 1}
    assert stage.node.unregister("tiny", "1.0")
    assert not stage.node.unregister("tiny", "1.0")
    assert stage.node.ensure(stage.archives["1.0"], "1.0", 1, note)


def test_an_archive_is_served_under_another_version_or_refused_with_the_reason(stage: Stage) -> None:
    reason = stage.node.cannot(stage.archives["1.0"], "1.0x")
    if reason:
        with pytest.raises(NodeError, match=r"tiny 1\.0x cannot be on node local") as refused:
            stage.register("1.0", "1.0x")
        assert reason in refused.value.message
        return
    stage.register("1.0", "1.0x")
    assert stage.served() == {"1.0": 1, "1.0x": 1}
    assert stage.node.require_version("tiny", "1.0x").archive == stage.archives["1.0"].path.name
    assert (stage.ask("1.0x").body, stage.ask("1.0").body) == (b'{"y":1.0}', b'{"y":1.0}')


def test_a_worker_has_its_own_packages_and_secrets_or_the_engine_refuses_them(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "wheels", "threefold", "1.0", "FACTOR = 3.0\n")
    only_from(tmp_path / "wheels", monkeypatch)
    monkeypatch.setenv("TEST_SECRET", "seventeen-letters")
    write_tiny(stage.site, "packed", {"1.0": {"factor": 20.0}}, requirements=["threefold==1.0"], secrets=["KEY"])
    handler = stage.site.root / "archives" / "packed" / "handler.py"
    load = "import threefold; from handlers import secret; self.factor = threefold.FACTOR + len(secret('KEY'))"
    handler.write_text(handler.read_text().replace('self.factor = self.settings.get("factor", 2.0)', load))
    [built] = build_versions(stage.project, ["packed:1.0"], QUIET)
    archive = stored(stage.project, built.archive)
    deployed = yaml.safe_load(stage.project.deployment.read_text())
    secrets = {"KEY": {"env": "TEST_SECRET"}}
    deployed["models"] = {"packed": {"default": "1.0", "versions": {"1.0": None}, "secrets": secrets}}
    (stage.site.root / "deployment.yaml").write_text(yaml.safe_dump(deployed))
    if not stage.node.has_packages:
        with pytest.raises(NodeError, match=r"archive.yaml has requirements, and engine"):
            stage.node.register(archive, "1.0", 1, note, START_S)
        return
    stage.node.register(archive, "1.0", 1, note, START_S)
    try:
        assert stage.node.predict("packed", "1.0", HALF, "application/json").body == b'{"y":10.0}'
        processes = [stage.node.pid, *stage.node.require_version("packed", "1.0").pids, *stage.pids("1.0")]
        for process in [psutil.Process(pid) for pid in processes if pid is not None]:
            assert "seventeen-letters" not in str(process.environ()) + str(process.cmdline())
        files = [path for path in stage.site.root.rglob("*") if path.is_file()]
        assert [path.name for path in files if b"seventeen-letters" in path.read_bytes()] == ["KEY"]
    finally:
        stage.node.unregister("packed", "1.0")


@pytest.mark.parametrize(
    ("name", "reason"), [("crash", "tiny crash"), ("wrong", r"half\.json")], ids=["crash", "golden"]
)
def test_what_must_not_serve_is_refused_and_gone(stage: Stage, name: str, reason: str) -> None:
    with pytest.raises(NodeError, match=reason):
        stage.register(name)
    assert stage.served() == {"1.0": 1}
    assert stage.ask("1.0").status == 200
    assert all(path.is_file() for path in stage.node.logs)
    assert f"tiny {name}" in stage.node.logs[-1].read_text(errors="replace").replace("tiny_", "tiny ").replace(
        "tiny~", "tiny "
    )
    assert stage.node.crash_report()


def test_a_damaged_archive_is_refused(stage: Stage, tmp_path: Path) -> None:
    whole = stage.archives["2.0"].path
    damaged = stage.project.store / whole.name.replace(stage.archives["2.0"].digest, "0" * 12)
    shutil.copyfile(whole, damaged)
    try:
        with pytest.raises(ArchiveError, match="is damaged"):
            stage.node.register(archive_of(damaged), "2.0", 1, note)
    finally:
        damaged.unlink()
    (tmp_path / "none.mar").write_bytes(b"no zip at all")
    with pytest.raises(ArchiveError):
        import_archive(stage.project, tmp_path / "none.mar")
    assert stage.served() == {"1.0": 1}


def test_a_version_has_as_many_workers_as_are_asked_for(stage: Stage) -> None:
    more = stage.node.scale("tiny", "1.0", 2, note)
    assert (more.workers, more.ready, len(set(more.pids))) == (2, 2, 2)
    less = stage.node.scale("tiny", "1.0", 1, note)
    assert (less.workers, less.ready) == (1, 1)
    until(lambda: sum(map(is_alive, more.pids)) == 1, 10, "the end of one worker")
    assert stage.ask("1.0").status == 200
    with pytest.raises(NodeError, match=r"tiny 9\.0 is not registered"):
        stage.node.scale("tiny", "9.0", 1, note)


def test_the_default_answers_callers_that_name_no_version(stage: Stage) -> None:
    stage.register("2.0")
    assert stage.ask(None).body == b'{"y":1.0}'
    stage.node.set_default("tiny", "2.0")
    assert stage.node.models()["tiny"].default == "2.0"
    assert stage.ask(None).body == b'{"y":1.5}'
    with pytest.raises(NodeError):
        stage.node.set_default("tiny", "9.0")
    stage.node.give_up_default("tiny", "2.0", "1.0")
    assert stage.node.unregister("tiny", "2.0")
    assert stage.ask(None).body == b'{"y":1.0}'


def test_bytes_are_replaced_and_come_back_where_the_new_ones_do_not_load(stage: Stage) -> None:
    write_tiny(stage.site, "tiny", {"1.0": {"factor": 7.0}}, golden=3.5)
    [new] = build_versions(stage.project, ["tiny:1.0"], QUIET)
    write_tiny(stage.site, "tiny", {"1.0": {"factor": 7.0}}, golden=1.0)
    [wrong] = build_versions(stage.project, ["tiny:1.0"], QUIET)
    stage.node.replace(stored(stage.project, new.archive), "1.0", 1, note)
    assert stage.ask("1.0").body == b'{"y":3.5}'
    with pytest.raises(NodeError, match=f"serves what it served before, {new.archive.path.name}"):
        stage.node.replace(stored(stage.project, wrong.archive), "1.0", 1, note)
    assert stage.ask("1.0").body == b'{"y":3.5}'


def test_a_killed_worker_is_replaced(stage: Stage) -> None:
    stage.node.scale("tiny", "1.0", 2, note)
    killed, other = stage.pids("1.0")
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in stage.pids("1.0") and stage.served() == {"1.0": 2}, 30, "another worker")
    assert other in stage.pids("1.0")
    assert stage.ask("1.0").status == 200


def test_a_killed_node_serves_the_same_after_its_start(stage: Stage) -> None:
    stage.register("2.0")
    stage.node.set_default("tiny", "2.0")
    workers = [*stage.pids("1.0"), *stage.pids("2.0")]
    pid = stage.node.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: stage.node.pid is None, 10, "the end of the node")
    with pytest.raises(TsctlError):
        stage.node.models()
    place = urlsplit(stage.node.spec.url)
    until(lambda: not port_problem(place.hostname or "", place.port or 0), 10, "its port, which clients may have taken")
    stage.start()
    assert not any(map(is_alive, workers)), "nothing of the killed node is left"
    restored = stage.node.restore(stage.project, QUIET, frozenset())
    assert restored.failed == ()
    assert stage.served() == {"1.0": 1, "2.0": 1}
    assert stage.ask(None).body == b'{"y":1.5}'
    stage.node.require_same_addresses()


def test_an_unregistered_version_answers_what_it_has(stage: Stage) -> None:
    stage.register("slow")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(stage.ask, "slow")]
        time.sleep(0.1)  # it has the worker
        asked += [pool.submit(stage.ask, "slow") for _ in range(3)]
        if stage.node.engine == "torchserve":  # it may lose requests, so the gateway drains it before
            wait(asked)
        elif stage.node.engine in ("ray", "triton"):  # it does not say how many wait
            time.sleep(0.3)
        else:
            until(lambda: stage.node.require_version("tiny", "slow").queue == 3, 20, "three requests that wait")
        assert stage.node.unregister("tiny", "slow")
        assert [one.result().status for one in asked] == [200] * 4
    assert stage.served() == {"1.0": 1}


def test_a_node_without_its_port_or_without_disk_does_not_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node = stage.node
    with pytest.raises(NodeError, match="runs already"):
        node.start(stage.project, QUIET)
    assert stage.stop()
    assert not stage.stop()
    assert port_problem(node.spec.host, node.spec.listens_on[0]) == ""
    with (
        ThreadingHTTPServer((node.spec.host, node.spec.listens_on[0]), BaseHTTPRequestHandler),
        pytest.raises(NodeError, match=f"port {node.spec.listens_on[0]} .* is in use"),
    ):
        node.start(stage.project, QUIET)
    monkeypatch.setattr("tsctl.nodes.process.LEAST_FREE_BYTES", 1 << 62)
    with pytest.raises(NodeError, match="MiB free, and a node needs"):
        node.start(stage.project, QUIET)
    assert node.pid is None
