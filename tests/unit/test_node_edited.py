"""deployment.yaml is edited while nodes run: what is said, what is asked of whom, and what still can be stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.support.ports import free_ports
from tests.support.sites import is_alive
from tsctl.cli.main import run
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import (
    BaseNodeSpec,
    BentomlSpec,
    NodeSpec,
    RaySpec,
    TorchServeSpec,
    TritonSpec,
    UvicornSpec,
    VllmSpec,
)
from tsctl.config.project import Project
from tsctl.errors import NodeError, SpecError
from tsctl.host.progress import Progress
from tsctl.nodes.engines import open_node, open_to_stop
from tsctl.nodes.node import Node, NotRunning, Unreachable
from tsctl.nodes.observe import observe
from tsctl.nodes.process import start
from tsctl.nodes.record import changed_settings, read_record, record_path, write_record

QUIET = Progress(Console(quiet=True))
OTHER = "http://127.0.0.1:1"


def spec_of(engine: str, url: str) -> NodeSpec:
    """A node of the engine whose management is at the address."""
    if engine == "torchserve":
        return TorchServeSpec(management=url)
    kinds: dict[str, Any] = {
        "uvicorn": UvicornSpec, "bentoml": BentomlSpec, "ray": RaySpec, "triton": TritonSpec, "vllm": VllmSpec,
    }  # fmt: skip
    node: NodeSpec = kinds[engine](engine=engine, address=url)
    return node


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Somebody listens, and would see every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def url_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def was_asked(listening: socket.socket) -> bool:
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def run_as(project: Project, name: str, spec: BaseNodeSpec, pid: int | None = None) -> Path:
    """Let this process be the running node of that name; its folder."""
    folder = project.state / "nodes" / name
    folder.mkdir(parents=True, mode=0o700)
    write_record(folder, pid or os.getpid(), folder / "tmp", spec)
    return folder


def give_tokens(node: Node) -> None:
    """Files with tokens that each engine would send."""
    key = {"key": "a" * 32, "expiration time": "2999-01-01T00:00:00Z"}
    content = {"inference": key, "management": key, "API": key} if node.engine == "torchserve" else {}
    path = node.folder / "key_file.json"
    path.write_text(json.dumps(content or {"inference": "a" * 32, "admin": "b" * 32}))
    path.chmod(0o600)


@pytest.mark.parametrize("now", ["torchserve", "uvicorn", "bentoml", "ray", "triton", "vllm"])
@pytest.mark.parametrize("then", ["torchserve", "uvicorn", "bentoml", "ray", "triton", "vllm"])
def test_a_node_that_runs_as_something_else_is_told_and_gets_no_token(
    then: str, now: str, tmp_path: Path, stranger: socket.socket
) -> None:
    project = Project(tmp_path)
    run_as(project, "a", spec_of(then, OTHER if then == now else url_of(stranger)))
    node = open_node(project, "a", spec_of(now, url_of(stranger)))
    give_tokens(node)
    what = f"engine {then} " if then != now else f"{'management' if now == 'torchserve' else 'address'} {OTHER} "
    with pytest.raises(NodeError, match=f"node a runs with {what}.*and deployment.yaml says") as raised:
        node.models()
    assert "tsctl node stop --node a; tsctl node start --node a" in raised.value.hint
    for ask in (
        node.require_same_addresses,
        lambda: node.predict("tiny", "1.0", b"{}", "application/json"),
        lambda: node.scale("tiny", "1.0", 1, lambda _: None),
        lambda: node.unregister("tiny", "1.0"),
        lambda: node.start(project, QUIET),
    ):
        with pytest.raises(NodeError, match=r"and deployment\.yaml says"):
            ask()
    assert not was_asked(stranger)
    [observed] = observe([node])
    assert observed.reason.startswith(f"node a runs with {what}")


@pytest.mark.parametrize("engine", ["uvicorn", "bentoml", "ray", "triton", "vllm"])
def test_nobody_but_the_node_gets_its_token(engine: str, tmp_path: Path, stranger: socket.socket) -> None:
    node = open_node(Project(tmp_path), "a", spec_of(engine, url_of(stranger)))
    node.folder.mkdir(parents=True)
    give_tokens(node)
    with pytest.raises(NotRunning, match="the node is not running") as raised:
        node.models()
    assert raised.value.hint == "Start it: tsctl node start --node a"
    assert not was_asked(stranger)


def test_what_helps_is_said_of_every_node_that_does_not_answer(tmp_path: Path) -> None:
    project, (port,) = Project(tmp_path), free_ports(1)
    address = f"http://127.0.0.1:{port}"
    hung, far = UvicornSpec(engine="uvicorn", address=address), TorchServeSpec(management=address, key_file="keys.json")
    run_as(project, "hung", hung)
    give_tokens(open_node(project, "hung", hung))
    nodes = [open_node(project, *one) for one in (("hung", hung), ("down", TorchServeSpec(management=address)))]
    nodes.append(open_node(project, "far", far))
    hung_is, down_is, far_is = (observed.error for observed in observe(nodes))
    assert isinstance(hung_is, Unreachable)
    assert "no connection" in hung_is.message
    runs = f"Its process (pid {os.getpid()}) runs. End it and start it again: tsctl node stop --node hung; "
    assert hung_is.hint == f"{runs}tsctl node start --node hung"
    assert down_is is not None
    assert down_is.message.startswith("the node is not running")
    assert down_is.hint == "Start it: tsctl node start --node down"
    assert far_is is not None
    assert far_is.hint == "Start node far where it is, with its own tsctl."


def test_a_node_is_stopped_as_it_was_started(tmp_path: Path) -> None:
    project = Project(tmp_path)
    triton, uvicorn = spec_of("triton", OTHER), spec_of("uvicorn", OTHER)
    run_as(project, "a", triton)
    run_as(project, "gone", uvicorn)
    deployment = DeploymentSpec(nodes={"a": uvicorn, "b": TorchServeSpec()})
    opened = [open_to_stop(project, deployment, name) for name in ("a", "b", "gone")]
    assert [(node.name, node.engine) for node in opened] == [("a", "triton"), ("b", "torchserve"), ("gone", "uvicorn")]
    for name in ("never", "../a", None):
        with pytest.raises(SpecError):
            open_to_stop(project, deployment, name)


def test_a_node_does_not_take_the_port_of_one_that_runs_under_another_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    run_as(project, "old", TorchServeSpec(management=OTHER))
    node = open_node(project, "new", spec_of("uvicorn", OTHER))

    def never(*_: object) -> Any:
        raise AssertionError("it is not launched")

    with pytest.raises(
        NodeError, match=r"node old \(pid \d+\) has port 1 of 127.0.0.1, which deployment.yaml gives"
    ) as e:
        start(node, QUIET, never, never, never, never)
    assert e.value.hint == "Stop it first: tsctl node stop --node old"


def test_settings_that_wait_for_the_next_start_are_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    folder = run_as(project, "a", TritonSpec(engine="triton", address=OTHER))
    assert changed_settings(folder, TritonSpec(engine="triton", address=OTHER)) == ""
    edited = TritonSpec(engine="triton", address=OTHER, nice=5, gpus=2)
    assert changed_settings(folder, edited) == "gpus 2 (it runs with 0), nice 5 (it runs with 0)"
    open_node(project, "a", edited).require_same_addresses()


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "7", '{"pid": "1", "started_ticks": 2, "tmp": "x"}',
     '{"pid": 1, "started_ticks": null, "tmp": "x"}', '{"pid": 1, "started_ticks": 2}',
     '{"pid": 1, "started_ticks": 2, "tmp": "x", "spec": []}', "[" * 100_000],
)  # fmt: skip
def test_a_record_of_wrong_types_is_damaged_and_nothing_worse(content: str, tmp_path: Path) -> None:
    record_path(tmp_path).write_text(content)
    with pytest.raises(NodeError, match="is damaged"):
        read_record(tmp_path)


def test_a_record_of_an_older_or_later_tsctl_is_read(tmp_path: Path) -> None:
    record = {"pid": 1, "started_ticks": 2, "tmp": "x"}
    for more in ({}, {"spec": {"engine": "ray"}}, {"spec": {}, "later": 1}):
        record_path(tmp_path).write_text(json.dumps(record | more))
        read = read_record(tmp_path)
        assert read is not None
        assert (read.pid, read.node) == (1, None)


def test_down_and_stop_end_nodes_that_deployment_yaml_names_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)
    spec = spec_of("uvicorn", OTHER)
    node = {"engine": "uvicorn", "address": "http://127.0.0.1:2"}
    project.deployment.write_text(yaml.safe_dump({"nodes": {"b": node}, "models": {}}))
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))

    def tsctl(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["tsctl", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        return ended.value.code, capsys.readouterr().out

    for number, command in enumerate((["node", "stop", "--node", "gone0"], ["down"])):
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            run_as(project, f"gone{number}", spec, process.pid)
            status, out = tsctl("status")
            assert status == 4
            end = f"tsctl node stop --node gone{number}"
            told = f"node gone{number} runs here (pid {process.pid}), and deployment.yaml does not name it."
            assert f"{told} To end it: {end}" in out
            assert tsctl(*command)[0] == 0
            assert not is_alive(process.pid)
        finally:
            process.kill()
            process.wait()
    damaged = project.state / "nodes" / "odd" / "node.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert tsctl("down")[0] == 4
