"""That clients notice nothing when a node or a worker is killed under load, and when a version retires."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.harness.client import Answer, under_load
from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.envoy.render import cluster_name
from tsctl.gateway.retire import retire
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve.node import Node

NODES = 3
STABLE, CANARY = "1.0", "2.0"
CONNECTIONS = 12
#: Load before and after what happens.
AROUND_S = 2.0
#: How long a node may take to come back, and a worker.
BACK_S = 60.0
POLL_S = 0.05
RETIRE_S = 60.0
NONE = Target(0, is_ceiling=True)
IN_ROTATION = Target(10, is_ceiling=True)


def run(project: Project, rounds: int, progress: Progress) -> Result:
    """All of it on three nodes, as often as there are rounds, the retiring once.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    served = [(MODEL, STABLE), (MODEL, CANARY)]
    with own_folder() as folder, running_fleet(project, folder / "own", NODES, served, progress) as fleet:
        nodes = [_while_killed(fleet, "node", number, progress) for number in range(rounds)]
        workers = [_while_killed(fleet, "worker", number, progress) for number in range(rounds)]
        asked, failed = _while_retired(fleet, progress)
    figures = [
        Figure("failed while one of three nodes was killed", "requests", tuple(f for _, f, _ in nodes), NONE),
        Figure("requests meanwhile", "requests", tuple(a for a, _, _ in nodes)),
        Figure("a node that is ready is in rotation after", "s", tuple(b for _, _, b in nodes), IN_ROTATION),
        Figure("failed while a worker was killed", "requests", tuple(f for _, f, _ in workers), NONE),
        Figure("requests meanwhile, worker", "requests", tuple(a for a, _, _ in workers)),
        Figure("failed while a version retired", "requests", (failed,), NONE),
        Figure("requests meanwhile, retiring", "requests", (asked,)),
    ]
    settings = {"connections": CONNECTIONS, "nodes": NODES}
    return Result("faults", "nodes, workers and versions that go", settings, {}, figures)


def _while_killed(fleet: Fleet, what: str, number: int, progress: Progress) -> tuple[float, float, float]:
    """Requests, those that failed, and seconds until what was killed is in rotation again after it was ready."""
    node = fleet.nodes[number % NODES]
    with (
        progress.step(f"round {number + 1}: a {what} of {node.name} is killed") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CONNECTIONS) as load,
    ):
        time.sleep(AROUND_S)
        if what == "node":
            fleet.kill_node(node)
            time.sleep(AROUND_S)
            fleet.start_again(node)
        else:
            fleet.kill_worker(node, MODEL, STABLE)
            time.sleep(AROUND_S)
            _until(lambda: node.client.describe(MODEL, STABLE)[0].is_ready, f"{node.name} has its worker again")
        ready = time.monotonic()
        _until(lambda: _in_rotation(fleet, node), f"{node.name} is in rotation")
        back_s = time.monotonic() - ready
        time.sleep(AROUND_S)
        step.done(f"{len(load.answers):,} requests, {len(load.failed)} failed, back after {back_s:.1f} s")
    for answer in load.failed[:5]:
        progress.line(f"failed: {_told(answer)}")
    return len(load.answers), len(load.failed), round(back_s, 2)


def _while_retired(fleet: Fleet, progress: Progress) -> tuple[int, int]:
    set_weights(fleet.gateway, MODEL, {STABLE: 5000, CANARY: 5000})
    with (
        progress.step(f"{MODEL} {CANARY} retires") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CONNECTIONS) as load,
    ):
        time.sleep(AROUND_S)
        ended = retire(fleet.gateway, MODEL, CANARY, RETIRE_S, step.note)
        if len(ended.gone) != NODES:
            raise NodeError(f"{MODEL} {CANARY} is still on a node: {ended.failed or ended.absent}")
        time.sleep(AROUND_S)
        step.done(f"{len(load.answers):,} requests, {len(load.failed)} failed")
    return len(load.answers), len(load.failed)


def _in_rotation(fleet: Fleet, node: Node) -> bool:
    place = node.spec.inference.removeprefix("http://")
    hosts = fleet.gateway.admin.hosts()[cluster_name(MODEL, STABLE)]
    return any(host.address == place and host.is_healthy for host in hosts)


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BACK_S
    while not holds():
        if time.monotonic() > end:
            raise NodeError(f"it did not come true within {BACK_S:g} s that {what}")
        time.sleep(POLL_S)


def _told(answer: Answer) -> str:
    return f"status {answer.status} after {answer.took_ms:.0f} ms"
