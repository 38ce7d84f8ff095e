"""Nodes and workers that are killed under load: clients get their answers from those that are left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from rich.console import Console

from benchmarks.harness.client import Load, under_load
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet
from tests.support.sites import processes_of, quick_project, until
from tsctl.host.progress import Progress

QUIET = Progress(Console(quiet=True))
ROUTE = f"/predictions/{MODEL}"
#: Answers in 50 ms: what is killed has something in hand, and the load leaves the machine time for what is tested.
VERSION = "slow"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three nodes that serve one version; what a worker had in hand may be asked again."""
    folder = tmp_path_factory.mktemp("fleet")
    project = quick_project(folder / "settings")
    with running_fleet(project, folder / "own", 3, [(MODEL, VERSION)], QUIET) as running:
        yield running
    assert processes_of(folder) == [], "processes are left behind"


def until_more(load: Load, count: int) -> None:
    """Wait for so many further answers."""
    seen = len(load.answers)
    until(lambda: len(load.answers) >= seen + count, 30, f"{count} further answers")


def test_a_killed_node_costs_no_answer_and_comes_back(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    with under_load(fleet.address(ROUTE), BODY, 8) as load:
        until_more(load, 50)
        fleet.kill_node(node)
        until(lambda: not fleet.is_in_rotation(node, MODEL, VERSION), 10, "the node out of rotation")
        until_more(load, 50)
        fleet.start_again(node)
        until(lambda: fleet.is_in_rotation(node, MODEL, VERSION), 10, "the node in rotation")
        until_more(load, 50)
    assert load.failed == []


def test_a_killed_worker_costs_no_answer_where_a_route_is_idempotent(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    with under_load(fleet.address(ROUTE), BODY, 8) as load:
        until_more(load, 30)
        fleet.kill_worker(node, MODEL, VERSION)
        until_more(load, 200)
    assert {answer.version for answer in load.answers} == {VERSION}
    assert load.failed == []
    until(lambda: node.require_version(MODEL, VERSION).is_ready, 30, "the worker")


def test_no_client_puts_nodes_aside_by_what_it_asks(fleet: Fleet) -> None:
    address = fleet.address(ROUTE)
    late = {**address.headers, "x-request-deadline-ms": "1"}
    with requests.Session() as session:
        answers = [session.post(address.url, data=BODY, headers=late, timeout=30) for _ in range(100)]
    assert {answer.status_code for answer in answers} == {504}
    assert all(fleet.is_in_rotation(node, MODEL, VERSION) for node in fleet.nodes)


def test_what_a_dead_worker_had_in_hand_is_told_where_a_route_is_not(tmp_path: Path) -> None:
    project, route = quick_project(tmp_path / "settings"), {"idempotent": False}
    with running_fleet(project, tmp_path / "own", 2, [(MODEL, "crashes")], QUIET, route) as fleet:
        address = fleet.address(ROUTE)
        headers = dict(address.headers)
        before = {node.name: node.require_version(MODEL, "crashes").pids for node in fleet.nodes}
        answer = requests.post(address.url, data=BODY, headers={**headers, "x-request-id": "lost"}, timeout=30)
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:tsctl:problem:worker-failed"
        assert (answer.json()["request_id"], answer.json()["version"]) == ("lost", "crashes")

        def crashed() -> list[str]:
            now = {node.name: node.require_version(MODEL, "crashes").pids for node in fleet.nodes}
            return [name for name, pids in now.items() if pids != before[name]]

        assert len(until(crashed, 10, "the crash")) == 1
        sample = requests.post(address.url, data=b'{"x": 0.5}', headers=headers, timeout=30)
        assert (sample.status_code, sample.json()) == (200, {"half": 0.25})
    assert processes_of(tmp_path) == [], "processes are left behind"
