"""What nodes serve, as every view of it reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tsctl.config.nodes import TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.nodes.node import Node, Unreachable
from tsctl.nodes.observe import observe, observe_version
from tsctl.nodes.observed import ObservedVersion
from tsctl.nodes.torchserve.client import ManagementClient, ManagementError, VersionState, Worker
from tsctl.nodes.torchserve.engine import open_node


class Client(ManagementClient):
    """A client that never sends: its node serves `states`, or fails with `error`."""

    def __init__(self, states: list[VersionState], default: str | None, error: NodeError | None = None) -> None:
        super().__init__(TorchServeSpec(), None)
        self._states, self._default_version, self._error = states, default, error

    def states(self) -> list[VersionState]:
        if self._error is not None:
            raise self._error
        return self._states

    def describe(self, model: str, version: str | None = None) -> list[VersionState]:
        return [state for state in self.states() if (state.model, state.version) == (model, version)]

    def default_version(self, model: str) -> str:
        if self._default_version is None:
            raise ManagementError("no such version", 404, "ModelVersionNotFoundException")
        return self._default_version


def state(version: str, ready: int) -> VersionState:
    """A version with two workers."""
    workers = tuple(Worker(str(n), "READY" if n < ready else "UNLOADING", 100 + n, False) for n in range(2))
    return VersionState("tiny", version, f"tiny-{version}.mar", 2, 2, 8, 1, 30, 120, workers, 3, 100)


def node(folder: Path, name: str, client: Client) -> Node:
    return replace(open_node(Project(folder), name, TorchServeSpec()), client=client)


def test_every_node_is_observed_and_one_that_fails_has_its_reason(tmp_path: Path) -> None:
    nodes = [
        node(tmp_path, "b", Client([state("1.0", 1), state("2.0", 2)], "2.0")),
        node(tmp_path, "a", Client([], None, Unreachable("no\n connection"))),
        node(tmp_path, "c", Client([], None)),
    ]
    served, unreachable, empty = observe(nodes)
    assert (served.name, served.error, served.reason) == ("b", None, "")
    assert served.models["tiny"].default == "2.0"
    half = ObservedVersion("tiny-1.0.mar", workers=2, ready=1, pids=(100,), queue=3, ids=("0",), queue_size=100)
    assert served.version("tiny", "1.0") == half
    assert [one.is_ready for one in served.models["tiny"].versions.values()] == [False, True]
    assert served.version("tiny", "3.0") is None
    assert served.version("other", "1.0") is None
    assert (unreachable.name, dict(unreachable.models), unreachable.reason) == ("a", {}, "no connection")
    assert isinstance(unreachable.error, Unreachable)
    assert (empty.models, empty.error) == ({}, None)


def test_a_default_that_torchserve_lost_is_none(tmp_path: Path) -> None:
    [served] = observe([node(tmp_path, "a", Client([state("1.0", 2)], None))])
    assert served.models["tiny"].default is None


def test_one_version_is_observed_on_the_nodes_that_have_it(tmp_path: Path) -> None:
    nodes = [
        node(tmp_path, "b", Client([state("1.0", 1)], "1.0")),
        node(tmp_path, "a", Client([], None, Unreachable("no connection"))),
        node(tmp_path, "c", Client([], None)),
    ]
    assert {name: one.ready for name, one in observe_version(nodes, "tiny", "1.0").items()} == {"b": 1}
