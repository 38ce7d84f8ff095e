"""The supervisor survives whatever its tasks meet, says it once; a hanging Envoy is ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsctl.config.deployment import read_deployment
from tsctl.config.nodes import TRITON
from tsctl.config.project import Project
from tsctl.errors import ConflictError, GatewayError, NodeError
from tsctl.gateway import state, sync
from tsctl.gateway.envoy import admin, supervisor
from tsctl.gateway.envoy.process import supervisor_environment
from tsctl.gateway.envoy.render.upstreams import Endpoint, Probe, Upstream, Way
from tsctl.gateway.envoy.supervisor import Supervisor
from tsctl.gateway.files import record_process, running_pid
from tsctl.gateway.keys import write_keys
from tsctl.gateway.notices import Notices
from tsctl.gateway.state import Gateway, gateway_status, open_gateway, traffic_in_force
from tsctl.host.files import make_folder
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion

DEPLOYMENT = """
nodes:
  a: {}
  b: {inference: "http://127.0.0.1:1", management: "http://127.0.0.1:2", metrics: "http://127.0.0.1:3",
      grpc_ports: [4, 5]}
gateway: {}
models: {}
"""
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """A gateway that was never started."""
    project = Project(tmp_path)
    project.deployment.write_text(DEPLOYMENT)
    opened = open_gateway(project, read_deployment(project.deployment))
    for folder in opened.files.folders:
        make_folder(folder)
    return opened


def without_default_ports(gateway: Gateway) -> Gateway:
    """Nothing of it may run on this machine: node a is left out."""
    gateway.project.deployment.write_text(DEPLOYMENT.replace("  a: {}\n", ""))
    return open_gateway(gateway.project, read_deployment(gateway.project.deployment))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for Envoy, or for the supervisor."""
    with subprocess.Popen(SLEEP) as started:
        yield started
        started.kill()


@pytest.fixture
def supervised(
    gateway: Gateway,
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Supervisor:
    """A supervisor whose Envoy runs, and whose every tick does everything."""
    caplog.set_level(logging.INFO)
    for name in ("FOLLOW_S", "TICK_S", "HANG_CHECK_S"):
        monkeypatch.setattr(supervisor, name, 0.0)
    monkeypatch.setattr(supervisor, "sync", lambda *_: [])
    monkeypatch.setattr(supervisor, "rotate", lambda gateway: None)
    record_process(gateway.files.supervisor_record, os.getpid())
    record_process(gateway.files.envoy_record, process.pid)
    return Supervisor(gateway)


@pytest.mark.parametrize(
    "text",
    ["gateway: {request_bytes: 0x" + "f" * 6000 + "}\n", "{" * 5000, "nodes: [", "gateway: 3\n", "\x00", "", "- 1\n"],
)
def test_a_deployment_that_cannot_be_read_is_told_once_and_the_old_one_stays(
    supervised: Supervisor, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    supervised.tick()
    before, project = supervised.gateway, supervised.gateway.project
    project.deployment.write_text(text)
    for _ in range(3):
        supervised.tick()
    assert supervised.gateway is before
    assert [message.partition(":")[0] for message in caplog.messages] == ["deployment.yaml"]
    project.deployment.write_text(DEPLOYMENT + "# mended\n")
    os.utime(project.deployment, (1, 1))
    supervised.tick()
    assert supervised.gateway is not before
    assert caplog.messages[1:] == ["deployment.yaml: it is over"]


@pytest.mark.parametrize(
    "error",
    [
        zipfile.BadZipFile("File is not a zip file"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        KeyError("resources"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        OSError(28, "No space left on device"),
        GatewayError("the gateway refused the change"),
    ],
)
def test_no_exception_of_a_task_ends_it_or_keeps_the_other_tasks_from_running(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    rotated: list[Gateway] = []

    def fail(*_: object) -> list[str]:
        raise error

    monkeypatch.setattr(supervisor, "sync", fail)
    monkeypatch.setattr(supervisor, "rotate", rotated.append)
    for _ in range(3):
        supervised.tick()
    assert len(rotated) == 3
    [record] = caplog.records
    assert record.getMessage().startswith("the nodes: ")
    is_foreseen = isinstance(error, GatewayError | OSError)
    assert (record.exc_info is None) == is_foreseen  # what nobody foresaw comes with its traceback


def test_two_troubles_at_once_are_each_told_once(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> list[str]:
        raise GatewayError("the nodes' trouble")

    monkeypatch.setattr(supervisor, "sync", fail)
    supervised.gateway.project.deployment.write_text("nodes: [")
    for _ in range(4):
        supervised.tick()
    assert len(caplog.messages) == 2


def test_a_sync_with_nothing_to_do_takes_no_lock_until_something_changes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOCK_S", 0.05)
    gateway = without_default_ports(gateway)
    settled = sync.Settled()
    for _ in range(2):  # the first one writes the files
        assert sync.sync(gateway, None, settled) == []
    with state.changing(gateway):
        assert sync.sync(gateway, None, settled) == []
        with pytest.raises(ConflictError):
            sync.sync(gateway)
    write_keys(gateway.files.keys, [])
    with state.changing(gateway), pytest.raises(ConflictError):
        sync.sync(gateway, None, settled)


def test_a_damaged_file_of_routes_is_no_state_of_a_gateway_that_does_not_run(gateway: Gateway) -> None:
    sync.sync(without_default_ports(gateway))
    assert traffic_in_force(gateway) == {}
    gateway.files.routes.write_text("{")
    with pytest.raises(GatewayError, match="is damaged"):
        traffic_in_force(gateway)


def test_a_truncated_archive_leaves_its_check_as_it_was_and_all_others_are_followed(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    project = gateway.project
    project.store.mkdir(parents=True)
    for version, body in (("1.0", b"{}"), ("2.0", b"[1]")):
        with zipfile.ZipFile(project.store / f"digits-{version}.mar", "w") as archive:
            archive.writestr("samples/a.json", body)
    nodes = open_nodes(project, gateway.deployment)[:1]
    versions = {v: ObservedVersion(f"digits-{v}.mar", 1, 1, (1,), 0) for v in ("1.0", "2.0")}
    seen = [ObservedNode("a", {"digits": ObservedModel("1.0", versions)}, None)]
    notices = Notices(logging.getLogger("test"))
    before = sync._derive(project, nodes, seen, [], [], notices)
    assert [one.probe for one in before] == [Probe(b"{}", "application/json"), Probe(b"[1]", "application/json")]
    for damage in (b"PK", b"", (project.store / "digits-1.0.mar").read_bytes()[:40]):
        (project.store / "digits-1.0.mar").write_bytes(damage)
        after = sync._derive(project, nodes, seen, before, [], notices)
        assert after == before
        assert sync._derive(project, nodes, seen, [], [], notices)[1] == before[1]
    assert all("its health check stays as it was" in message for message in caplog.messages)
    assert len(caplog.messages) == 2  # too short, and then cut off; at however many looks


def test_a_node_whose_address_is_not_known_now_stays_as_it_was(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = open_nodes(gateway.project, gateway.deployment)
    before = [
        Upstream("digits", "1.0", (Endpoint("a", "10.0.0.2", 8080, "t"), Endpoint("b", "10.0.0.3", 80, "u")), None)
    ]
    versions = {"digits": ObservedModel("1.0", {"1.0": ObservedVersion("gone.mar", 1, 1, (1,), 0)})}
    real = socket.getaddrinfo

    def resolve(host: str, *more: object, **named: object) -> object:
        if host == "127.0.0.1":
            return real(host, None)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    nodes[1].spec.__dict__["inference"] = "http://gone.example:80"
    seen = [ObservedNode(node.name, versions, None) for node in nodes]
    [after] = sync._derive(gateway.project, nodes, seen, before, [], Notices(logging.getLogger("test")))
    assert after.endpoints == (Endpoint("a", "127.0.0.1", 8080, None), before[0].endpoints[1])
    assert len(caplog.messages) == 1


def test_a_version_on_triton_is_asked_there_and_never_in_one_cluster_with_another_engine(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    project = gateway.project
    project.deployment.write_text(
        'nodes:\n  a: {}\n  t: {engine: triton, address: "http://127.0.0.1:9"}\ngateway: {}\nmodels: {}\n'
    )
    nodes = open_nodes(project, read_deployment(project.deployment))
    one = ObservedVersion("gone.mar", 1, 1, (1,), 0)

    def derive(
        on_a: set[str], on_t: set[str], before: list[Upstream], error: NodeError | None = None
    ) -> list[Upstream]:
        served = [dict.fromkeys(versions, one) for versions in (on_a, on_t)]
        seen = [
            ObservedNode("a", {"digits": ObservedModel("1.0", served[0])}, None),
            ObservedNode("t", {"digits": ObservedModel("1.0t", served[1])} if error is None else {}, error),
        ]
        return sync._derive(project, nodes, seen, before, [], notices)

    notices = Notices(logging.getLogger("test"))
    plain, triton = derive({"1.0"}, {"1.0t"}, [])
    assert plain.way is None
    assert triton.way == Way(TRITON, "/v2/models/digits~1.0t/infer", sync.DEFAULT_QUEUE)
    assert derive({"1.0"}, set(), [plain, triton], NodeError("it is silent"))[1] == triton
    assert caplog.messages == []
    [mixed] = derive({"1.0"}, {"1.0"}, [])
    assert [endpoint.node for endpoint in mixed.endpoints] == ["a"]
    assert mixed.way is None
    assert caplog.messages == [
        "digits 1.0 on node t: it gets no requests: engine triton and node a need different clusters"
    ]


@pytest.fixture
def hanging(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A socket that takes connections and answers nothing, as a stopped Envoy's does; how many it took."""
    monkeypatch.setattr(admin, "TIMEOUT_S", 0.1)
    asked: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(gateway.files.admin))
        listener.listen(64)

        def take() -> None:
            while True:
                try:
                    asked.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield lambda: len(asked)
        listener.shutdown(socket.SHUT_RDWR)
    for connection in asked:
        connection.close()


def test_an_envoy_that_answers_nothing_is_ended_and_not_for_a_slow_answer_or_two(
    supervised: Supervisor,
    process: subprocess.Popen[bytes],
    hanging: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    supervised._end_hanging()
    supervised._end_hanging()
    assert process.poll() is None
    supervised._end_hanging()
    assert running_pid(supervised.gateway.files.envoy_record) is None
    assert caplog.messages == ["Envoy answered nothing 3 times in a row; ending it"]
    assert hanging() == 3


def test_a_hanging_envoy_is_told_by_everything_that_asks_it(
    gateway: Gateway, process: subprocess.Popen[bytes], hanging: Callable[[], int]
) -> None:
    record_process(gateway.files.envoy_record, process.pid)
    record_process(gateway.files.supervisor_record, os.getpid())
    for ask in (state.require_live, traffic_in_force, lambda one: one.admin.routes()):
        with pytest.raises(admin.Hangs, match="the gateway hangs: Envoy did not answer"):
            ask(gateway)
    status = gateway_status(gateway)
    assert (status.condition, status.is_ready, status.pid) == ("hangs", False, process.pid)
    assert status.problem.startswith("the gateway hangs")


def test_a_supervisor_that_is_dead_or_hangs_is_told(gateway: Gateway, process: subprocess.Popen[bytes]) -> None:
    assert gateway_status(gateway).problem == ""  # was never started
    files = gateway.files
    record_process(files.envoy_record, process.pid)
    assert (
        gateway_status(gateway).problem == "its supervisor does not run, so nobody restarts Envoy or follows the nodes"
    )
    record_process(files.supervisor_record, os.getpid())
    assert gateway_status(gateway).problem == ""
    long_ago = time.time() - state.SUPERVISOR_SILENT_S - 1
    os.utime(files.supervisor_record, (long_ago, long_ago))
    assert gateway_status(gateway).problem.startswith("its supervisor hangs")
    assert state.supervisor_pid(gateway) is None
    supervised = Supervisor(gateway)
    supervised._give_sign()
    assert state.supervisor_pid(gateway) == os.getpid()
    record = json.loads(files.envoy_record.read_text())
    files.envoy_record.write_text(json.dumps({**record, "started_ticks": 1}))  # the pid is another process's now
    assert gateway_status(gateway).problem == "Envoy has ended by itself"


def test_the_supervisor_has_the_variables_of_deployment_yaml(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.project.deployment.write_text(DEPLOYMENT + 'records: {shared: "${RECORDS_PLACE}"}\n')
    monkeypatch.setenv("RECORDS_PLACE", "/srv/records")
    monkeypatch.setenv("NOT_NAMED", "1")
    environment = supervisor_environment(gateway)
    assert environment["RECORDS_PLACE"] == "/srv/records"
    assert "NOT_NAMED" not in environment
