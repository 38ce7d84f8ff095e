"""Waits until a version on a node is in a wanted state, finds out why it is not, and warms the path to it up.

Invariant: every wait has a deadline, and its error reports what was seen last.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tsctl.archive.known import difference_of, known, name_of
from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError
from tsctl.host.process import started_ticks
from tsctl.host.progress import Note
from tsctl.nodes.load_reports import read_load_reports
from tsctl.nodes.observed import Reply
from tsctl.nodes.torchserve.client import VersionState
from tsctl.nodes.torchserve.logs import failed_recoveries, last_exception
from tsctl.nodes.torchserve.node import Node

POLL_S = 0.2
#: Starting a worker's process comes before its load, which startup_timeout bounds; TorchServe allows it two minutes.
PROCESS_START_S = 60.0
#: More processes than workers plus this many, and still none ready, means that they crash.
SPARE_PIDS = 1
#: A worker without a process may take so long to get another one before it counts as dead.
RESTART_S = 3.0
#: TorchServe's pauses before the tries to start a worker again.
BACK_OFF_S = (0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)
#: Requests for each worker at least, and in all at most; past the least, for this many seconds at most. The JVM
#: compiles what ran some 200 times.
LEAST_PER_WORKER = 2
MOST_REQUESTS = 300
LONGEST_S = 3.0
#: Every so many requests a new connection is opened: accepting one is a path of its own, which is cold as well.
REQUESTS_PER_CONNECTION = 10


def require_version(node: Node, model: str, version: str) -> VersionState:
    """The version's state; NodeError where it is not registered."""
    states = node.client.describe(model, version)
    if not states:
        raise NodeError(f"{model} {version} is not registered on node {node.name}", "See 'tsctl models list'.")
    return states[0]


def wait_state(
    node: Node, model: str, version: str, is_reached: Callable[[VersionState], bool], timeout_s: float
) -> VersionState:
    """Poll the version until its state is the wanted one, and return that state.

    Raises:
        NodeError: it is not reached within `timeout_s` seconds, or the version is not registered.
    """
    end = time.monotonic() + timeout_s
    while True:
        state = require_version(node, model, version)
        if is_reached(state):
            return state
        if time.monotonic() > end:
            seen = ", ".join(f"worker {w.id} {w.status}" for w in state.workers) or "no workers"
            raise NodeError(
                f"{model} {version} on node {node.name} is not ready after {timeout_s:g} s: last seen {seen}",
                f"See {node.paths.worker_log}.",
            )
        time.sleep(POLL_S)


def wait_ready(
    node: Node, model: str, version: str, note: Note, timeout_s: float | None, log_offset: int
) -> VersionState:
    """Wait until the version's workers are READY.

    Args:
        timeout_s: None: the archive's startup timeout and PROCESS_START_S.
        log_offset: of the workers' log, where the reports of this load begin.

    Raises:
        NodeError: they refuse to load, crash, are given up by TorchServe, or are not READY in time.
    """
    pids: set[int] = set()

    def is_ready(state: VersionState) -> bool:
        note(f"{state.ready_workers} of {state.min_workers} workers ready")
        if state.is_ready:
            return True
        if reason := _load_refusal(node, model, version, log_offset):
            raise NodeError(
                f"{model} {version} refused to load on node {node.name}: {reason}",
                f"The workers' log is {node.paths.worker_log}.",
            )
        pids.update(worker.pid for worker in state.workers if worker.pid > 0 and not worker.is_ready)
        if len(pids) > state.min_workers + SPARE_PIDS:
            reason = last_exception(node.paths.worker_log, log_offset, model, version) or "see its model_log.log"
            raise NodeError(f"the workers of {model} {version} on node {node.name} crash while they load: {reason}")
        if failure := given_up(node, state, time.time()):
            raise NodeError(
                f"{model} {version} on node {node.name} will not be ready: {failure}",
                f"'tsctl models scale {model} {version} 0', and then to {state.min_workers}, starts all of them anew.",
            )
        return False

    limit_s = timeout_s or require_version(node, model, version).startup_timeout_s + PROCESS_START_S
    return wait_state(node, model, version, is_ready, limit_s)


def _load_refusal(node: Node, model: str, version: str, log_offset: int) -> str:
    """The reason for which a worker of this version refused to load since `log_offset`; empty where none did."""
    reports = read_load_reports(node.paths.worker_log, log_offset)
    refused = [r.reason for r in reports if (r.model, r.version) == (model, version) and not r.is_ready]
    return refused[-1] if refused else ""


def warm_up(node: Node, archive: StoredArchive, note: Note) -> Reply | None:
    """Send the archive's samples to the explicit version URL before it counts as ready, because the JVM starts cold.

    Returns the last answer, or None for an archive without samples.

    Workers of archives that tsctl built have compared their golden answers by then; for a stock archive that is done
    here.

    Raises:
        NodeError: a sample was not answered with 200, or of a stock archive not with its golden answer.
    """
    found = known(archive.path)
    samples = found.samples
    least = LEAST_PER_WORKER * require_version(node, archive.model, archive.version).ready_workers
    begin = time.monotonic()
    last = None
    for count in range(max(least, MOST_REQUESTS) if samples else 0):
        if count >= least and time.monotonic() > begin + LONGEST_S:
            break
        if count % REQUESTS_PER_CONNECTION == 0:
            node.client.reconnect()
        name, body, media_type = samples[count % len(samples)]
        note(f"warm-up request {count + 1}")
        last = node.client.predict(archive.model, archive.version, body, media_type)
        if last.status != 200:
            raise NodeError(
                f"{archive.model} {archive.version} on node {node.name} answered sample {name} with {last.status}:"
                f" {last.body[:300].decode('utf-8', 'replace')}"
            )
        golden = found.answers.get(name_of(samples[count % len(samples)])) if found.is_kept else None
        if golden is not None and (why := difference_of(last.status, last.body, golden, found.tolerance)):
            raise NodeError(
                f"{archive.model} {archive.version} on node {node.name} answers sample {name} wrongly: {why}",
                f"If the new answer is right: tsctl archive golden {archive.model}:{archive.version}",
            )
    return last


def workers_before_dead(node: Node, model: str, version: str) -> int | None:
    """Count the workers before the first dead one; None where none is dead, or READY ones stand behind it.

    A worker is dead if its process is gone and TorchServe starts no other within RESTART_S. TorchServe goes on counting
    it, so asking for the same number starts none; scaling down ends the workers at the end of its list. A worker that
    serves is never ended for one that does not. Processes of another machine cannot be seen: none is taken for dead.
    """
    if not node.is_here:
        return None
    without_process = _without_process(require_version(node, model, version))
    if not without_process:
        return None
    time.sleep(RESTART_S)
    state = require_version(node, model, version)
    dead = without_process & _without_process(state)
    first = next((n for n, worker in enumerate(state.workers) if (worker.id, worker.pid) in dead), None)
    if first is None or any(worker.is_ready for worker in state.workers[first:]):
        return None
    return first


def given_up(node: Node, state: VersionState, now: float) -> str:
    """Why workers of the version are not started again; empty where none is given up, or that cannot be seen.

    TorchServe starts a worker that died again until its retry timeout is over, after longer and longer pauses. A worker
    without a process is given up if the last try failed longer ago than the pause before another.

    Args:
        now: seconds since 1970.
    """
    lost = {worker for worker, _ in _without_process(state)} if node.is_here and not state.is_ready else set()
    if not lost:
        return ""
    recoveries = failed_recoveries(node.paths.node_log, state.model, state.version, now)
    dead = {w: r for w, r in recoveries.items() if w in lost and r.ago_s > _pause_after(r.failures) + RESTART_S}
    if not dead:
        return ""
    tries = max(recovery.failures for recovery in dead.values())
    why = last_exception(node.paths.worker_log, 0, state.model, state.version) or "it ended without a word"
    return f"TorchServe gave up {len(dead)} of its {len(state.workers)} workers after {tries} tries: {why}"


def _pause_after(failures: int) -> int:
    return BACK_OFF_S[min(failures + 1, len(BACK_OFF_S) - 1)]


def _without_process(state: VersionState) -> set[tuple[str, int]]:
    """Id and last pid of the workers without a process."""
    return {
        (worker.id, worker.pid) for worker in state.workers if not worker.is_ready and started_ticks(worker.pid) is None
    }
