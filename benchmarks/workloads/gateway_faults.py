"""Requests that clients lose when a node or a worker is killed under load, and when a version retires."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.harness.client import Load, under_load
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.retire import retire
from tsctl.host.progress import Progress

NODES = 3
STABLE, CANARY = "1.0", "2.0"
CONNECTIONS = 12
#: Seconds of load before and after a kill or a retirement.
AROUND_S = 2.0
#: Seconds that a node or a worker may take to come back.
BACK_S = 60.0
POLL_S = 0.05
#: Seconds that a version may take to drain.
RETIRE_S = 60.0
NONE = Goal(0, is_ceiling=True)
IN_ROTATION = Goal(10, is_ceiling=True)


def run(job: Job) -> Result:
    """Kills on three nodes, once a round, and one retirement.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    served = [(MODEL, STABLE), (MODEL, CANARY)]
    with own_folder() as folder, running_fleet(job.project, folder / "own", NODES, served, job.progress) as fleet:
        nodes = [_while_killed(fleet, "node", number, job.progress) for number in range(job.rounds)]
        workers = [_while_killed(fleet, "worker", number, job.progress) for number in range(job.rounds)]
        sent, failed = _while_retired(fleet, job.progress)
    figures = [
        Figure("failed while one of three nodes was killed", "requests", tuple(f for _, f, _ in nodes), NONE),
        Figure("requests meanwhile", "requests", tuple(s for s, _, _ in nodes)),
        Figure("a node that is ready is in rotation after", "s", tuple(b for _, _, b in nodes), IN_ROTATION),
        Figure("failed while a worker was killed", "requests", tuple(f for _, f, _ in workers), NONE),
        Figure("requests meanwhile, worker", "requests", tuple(s for s, _, _ in workers)),
        Figure("failed while a version retired", "requests", (failed,), NONE),
        Figure("requests meanwhile, retiring", "requests", (sent,)),
    ]
    settings = {"connections": CONNECTIONS, "nodes": NODES}
    return Result("faults", "nodes, workers and versions that go", settings, {}, figures)


def _while_killed(fleet: Fleet, process: str, number: int, progress: Progress) -> tuple[float, float, float]:
    """Requests, failed requests, and seconds from ready again to in rotation again, of one kill of a node or worker."""
    node = fleet.nodes[number % NODES]
    with (
        progress.step(f"round {number + 1}: a {process} of {node.name} is killed") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CONNECTIONS) as load,
    ):
        time.sleep(AROUND_S)
        if process == "node":
            fleet.kill_node(node)
            time.sleep(AROUND_S)
            fleet.start_again(node)
        else:
            fleet.kill_worker(node, MODEL, STABLE)
            time.sleep(AROUND_S)
            _wait_until(lambda: node.require_version(MODEL, STABLE).is_ready, f"{node.name} has no worker")
        ready = time.monotonic()
        _wait_until(lambda: fleet.is_in_rotation(node, MODEL, STABLE), f"{node.name} is not in rotation")
        back_s = time.monotonic() - ready
        time.sleep(AROUND_S)
        step.done(f"{_counts(load)}, back after {back_s:.1f} s")
    for answer in load.failed[:5]:
        progress.line(f"failed: status {answer.status} after {answer.took_ms:.0f} ms")
    return len(load.answers), len(load.failed), round(back_s, 2)


def _while_retired(fleet: Fleet, progress: Progress) -> tuple[int, int]:
    """Requests and failed requests while a version with half of the traffic retires."""
    set_weights(fleet.gateway, MODEL, {STABLE: 5000, CANARY: 5000})
    with (
        progress.step(f"{MODEL} {CANARY} retires") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CONNECTIONS) as load,
    ):
        time.sleep(AROUND_S)
        ended = retire(fleet.gateway, MODEL, CANARY, RETIRE_S, step.note)
        if len(ended.gone) != NODES:
            raise NodeError(f"{MODEL} {CANARY} is still on a node: {ended.failed}")
        time.sleep(AROUND_S)
        step.done(_counts(load))
    return len(load.answers), len(load.failed)


def _wait_until(holds: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + BACK_S
    while not holds():
        if time.monotonic() > end:
            raise NodeError(f"{failure} after {BACK_S:g} s")
        time.sleep(POLL_S)


def _counts(load: Load) -> str:
    return f"{len(load.answers):,} requests, {len(load.failed)} failed"
