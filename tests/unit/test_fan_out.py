"""One operation on several nodes: each node's outcome is its own, and none hides or stops another's."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.nodes import NodeSpec, TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import ConflictError, NodeError
from tsctl.host.progress import Note
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.fan_out import NodeChange, combined_error, run_on_nodes
from tsctl.nodes.node import Node, Unreachable


@pytest.fixture
def nodes(tmp_path: Path) -> list[Node]:
    """Three nodes on this machine that nobody started."""
    specs: dict[str, NodeSpec] = {
        name: TorchServeSpec(
            inference=f"http://127.0.0.1:{port}",
            management=f"http://127.0.0.1:{port + 1}",
            metrics=f"http://127.0.0.1:{port + 2}",
            grpc_ports=(port + 3, port + 4),
        )
        for name, port in (("c", 10), ("a", 20), ("b", 30))
    }
    return open_nodes(Project(tmp_path), DeploymentSpec(nodes=specs))


def quiet(text: str) -> None:
    """What is happening is of no interest."""


def test_every_node_is_tried_and_told_in_the_order_of_the_deployment(nodes: list[Node]) -> None:
    def act(node: Node, note: Note) -> NodeChange:
        if node.name == "a":
            raise Unreachable("no\n connection")
        return NodeChange("registered", f"on {node.name}")

    ended = run_on_nodes(nodes, act, quiet)
    assert [(one.node, one.value) for one in ended] == [
        ("c", NodeChange("registered", "on c")),
        ("a", None),
        ("b", NodeChange("registered", "on b")),
    ]
    assert [one.error.summary for one in ended if one.error] == ["no connection"]


def test_all_nodes_are_at_it_at_the_same_time(nodes: list[Node]) -> None:
    together = threading.Barrier(len(nodes), timeout=10)

    def act(node: Node, note: Note) -> int:
        return together.wait()

    assert sorted(one.value for one in run_on_nodes(nodes, act, quiet) if one.value is not None) == [0, 1, 2]


def test_a_mistake_in_the_code_is_not_an_outcome_and_comes_after_all_were_tried(nodes: list[Node]) -> None:
    tried = []

    def act(node: Node, note: Note) -> None:
        if node.name == "c":
            raise ZeroDivisionError
        time.sleep(0.05)
        tried.append(node.name)

    with pytest.raises(ZeroDivisionError):
        run_on_nodes(nodes, act, quiet)
    assert sorted(tried) == ["a", "b"]


def test_the_note_is_one_line_about_all_nodes(nodes: list[Node]) -> None:
    seen: list[str] = []

    def act(node: Node, note: Note) -> None:
        note("busy")
        note("ready")

    run_on_nodes(nodes, act, seen.append)
    assert seen[-1] == "a: ready; b: ready; c: ready"


def test_an_interrupt_reaches_every_node_at_its_next_note(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    undone = []

    def interrupted(futures: object) -> None:
        raise KeyboardInterrupt

    def act(node: Node, note: Note) -> None:
        end = time.monotonic() + 10
        try:
            while time.monotonic() < end:
                note("waiting")
                time.sleep(0.01)
        except KeyboardInterrupt:
            undone.append(node.name)
            raise

    monkeypatch.setattr("tsctl.nodes.fan_out.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_on_nodes(nodes, act, quiet)
    assert sorted(undone) == ["a", "b", "c"]


def test_no_failure_is_no_error(nodes: list[Node]) -> None:
    assert combined_error(run_on_nodes(nodes, lambda node, note: NodeChange("gone"), quiet), "unregistering") is None


def test_the_error_names_the_nodes_and_what_to_do(nodes: list[Node]) -> None:
    errors = {
        "c": Unreachable("no connection", "Is it up?"),
        "a": ConflictError("in use", "Wait."),
        "b": NodeError("damaged", "Wait."),
    }

    def act(node: Node, note: Note) -> None:
        raise errors[node.name]

    error = combined_error(run_on_nodes(nodes, act, quiet), "registering digits 2.0")
    assert error is not None
    assert error.exit_code == 4
    assert error.message == "registering digits 2.0 failed on 3 of 3 nodes: c, a, b"
    assert [line.strip() for line in error.hint.splitlines()] == [
        "Wait.",
        "Run this again when all nodes answer. Nodes on which it is done stay as they are.",
    ]


def test_no_nodes_are_no_outcomes() -> None:
    assert run_on_nodes([], lambda node, note: NodeChange("gone"), quiet) == []
