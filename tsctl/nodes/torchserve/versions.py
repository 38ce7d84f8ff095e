"""Brings one version on one node into a wanted state and waits until it is true, or says why it is not.

Every wait has a deadline and reports what it last saw. A version whose registering failed is always unregistered
again, because TorchServe leaves it behind with workers that crash in a loop.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from handlers.contract import SAMPLE_MEDIA_TYPES
from tsctl.archive.store import StoredArchive, archive_of
from tsctl.errors import NodeError, TsctlError
from tsctl.host.locks import exclusive
from tsctl.host.process import started_ticks
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.client import ManagementError, Reply, Unreachable, VersionState
from tsctl.nodes.torchserve.logs import load_reports, size
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.snapshot import forget

POLL_S = 0.2
#: Starting a worker's process comes before its load, which startup_timeout bounds; TorchServe allows it two minutes.
PROCESS_START_S = 60.0
#: More processes than workers plus this many, and still none ready, means that they crash.
SPARE_PIDS = 1
#: Ending workers, and how long a worker without a process may take to get another one before it counts as dead.
ENDING_S = 60.0
LOOK_AGAIN_S = 3.0
#: How long workers of a version that TorchServe fell over may take to end.
LOST_S = 15.0
#: Answers to a register that registered nothing of ours: the model API is off, or the version is somebody else's.
NOTHING_REGISTERED = (405, 409)
#: How long an interrupted or unanswered register is looked for, to unregister it.
UNDO_S = 5.0
#: Requests that pass the whole wire before a version counts as ready, because the JVM's path is cold as well: so many
#: for each worker, and up to WIRE_MOST in all while that takes no longer than WIRE_S seconds. The JVM compiles what ran
#: some 200 times, and accepting a connection runs only where there is a new one: every WIRE_TURN requests have theirs.
WIRE_LEAST = 2
WIRE_MOST = 300
WIRE_S = 3.0
WIRE_TURN = 10


def register(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """The archive's version is registered, its workers are READY, and its samples were answered over the wire.

    Args:
        workers: how many; None: as the archive says.
        note: told what is happening.
        timeout_s: None: the archive's startup timeout and a minute for the process.

    Raises:
        NodeError: it is not; the version is not registered then.
        ConflictError: another tsctl changes this model on this node.
    """
    with _changing(node, archive.model):
        _register(node, archive, workers, note, timeout_s)


def ensure(node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None) -> bool:
    """The archive's version is registered and READY as `register` leaves it; False where it was registered already.

    One whose workers still load, because whoever registered it was killed, is waited for.

    Raises:
        NodeError: it is not, or other bytes or another number of workers are registered under this version.
        ConflictError: another tsctl changes this model on this node.
    """
    name = f"{archive.model} {archive.version}"
    with _changing(node, archive.model):
        found = node.client.describe(archive.model, archive.version)
        if not found:
            _register(node, archive, workers, note, timeout_s)
            return True
        state = found[0]
        if state.archive != archive.path.name:
            raise NodeError(
                f"{name} is already registered on node {node.name} with other bytes, {state.archive}",
                "Give the new bytes a version of their own, or unregister the old ones first.",
            )
        if state.min_workers == 0 or (workers and workers != state.min_workers):
            raise NodeError(
                f"{name} is already registered on node {node.name}, with {state.min_workers} workers",
                f"Change that with: tsctl models scale {name} {workers or 1}",
            )
        if not state.is_ready:
            _wait_ready(node, archive.model, archive.version, note, timeout_s, size(node.paths.worker_log))
            warm_wire(node, archive, note)
        return False


def scale(
    node: Node, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
) -> VersionState:
    """The version has exactly this many workers and all are READY; dead ones are started anew.

    Raises:
        NodeError: not registered, or not so before the deadline.
        ConflictError: another tsctl changes this model on this node.
    """
    with _changing(node, model):
        _require(node, model, version)
        offset = size(node.paths.worker_log)
        kept = _before_the_dead(node, model, version) if workers else None
        if kept is not None and kept < workers:
            note("ending dead workers")
            node.client.scale(model, version, kept)
            _wait(node, model, version, lambda state: len(state.workers) <= kept, note, ENDING_S)
        node.client.scale(model, version, workers)
        state = _wait(node, model, version, lambda state: len(state.workers) <= workers, note, timeout_s or ENDING_S)
        if workers == 0:
            return state
        return _wait_ready(node, model, version, note, timeout_s, offset)


def unregister(node: Node, model: str, version: str) -> bool:
    """The version is gone from the node; False if it was not there.

    Raises:
        NodeError: it is the default while others exist, or its workers did not end.
        ConflictError: another tsctl changes this model on this node.
    """
    with _changing(node, model):
        forget(node.paths.pending_restore, model, version)
        return _unregister(node, model, version)


def replace(node: Node, archive: StoredArchive, workers: int | None, note: Note) -> None:
    """Other bytes under the same version: the old ones end, the new ones serve, and the default stays what it was.

    TorchServe does not unregister a default version while others exist, so a ready one stands in meanwhile. Where the
    new bytes do not load, the old ones are registered again.

    Raises:
        NodeError: the new bytes do not load, or no version could stand in.
        ConflictError: another tsctl changes this model on this node.
    """
    name = f"{archive.model} {archive.version}"
    with _changing(node, archive.model):
        served = _require(node, archive.model, archive.version)
        was_default = node.client.default_version(archive.model) == archive.version
        others = [state for state in node.client.describe(archive.model) if state.version != archive.version]
        if was_default and others:
            stand_in = next((state for state in others if state.is_ready), None)
            if stand_in is None:
                raise NodeError(
                    f"{name} on node {node.name} is the default, and no other version is ready to stand in for it",
                    f"Scale another one first: tsctl models scale {archive.model} {others[0].version} 1",
                )
            node.client.set_default(archive.model, stand_in.version)
        _unregister(node, archive.model, archive.version)
        try:
            _register(node, archive, workers, note, None)
        except NodeError as error:
            old = archive.path.with_name(served.archive)
            if not old.is_file():
                raise
            note("registering the old bytes again")
            _register(node, archive_of(old), served.min_workers or None, note, None)
            raise NodeError(f"{error.message}\n{name} serves what it served before, {old.name}", error.hint) from error
        finally:
            if was_default and others and node.client.describe(archive.model, archive.version):
                node.client.set_default(archive.model, archive.version)


def set_default(node: Node, model: str, version: str) -> None:
    """The version, which has READY workers, answers callers that name none.

    Raises:
        NodeError: not registered, or not ready: TorchServe would answer 503 at once.
        ConflictError: another tsctl changes this model on this node.
    """
    with _changing(node, model):
        state = _require(node, model, version)
        if not state.is_ready:
            raise NodeError(
                f"{model} {version} on node {node.name} has {state.ready_workers} ready workers of {state.min_workers},"
                " so it cannot become the default",
                f"Scale it first: tsctl models scale {model} {version} 1",
            )
        node.client.set_default(model, version)


def warm_wire(node: Node, archive: StoredArchive, note: Note) -> Reply | None:
    """Send the archive's samples through the explicit version URL, so that the node's own path is warm as well.

    Returns the last answer, or None for an archive without samples.

    Raises:
        NodeError: a sample was not answered with 200.
    """
    samples = read_samples(archive.path)
    least = WIRE_LEAST * _require(node, archive.model, archive.version).ready_workers
    begin = time.monotonic()
    last = None
    for turn in range(max(least, WIRE_MOST) if samples else 0):
        if turn >= least and time.monotonic() > begin + WIRE_S:
            break
        if turn % WIRE_TURN == 0:
            node.client.reconnect()
        name, body, media_type = samples[turn % len(samples)]
        note(f"request {turn + 1} through the wire")
        last = node.client.predict(archive.model, archive.version, body, media_type)
        if last.status != 200:
            raise NodeError(
                f"{archive.model} {archive.version} on node {node.name} answered sample {name} with {last.status}:"
                f" {last.body[:300].decode('utf-8', 'replace')}"
            )
    return last


def read_samples(archive: Path) -> list[tuple[str, bytes, str]]:
    """Name, body and media type of each sample in the archive; empty for a stock archive."""
    with zipfile.ZipFile(archive) as content:
        names = sorted(name for name in content.namelist() if name.startswith("samples/") and not name.endswith("/"))
        return [
            (name, content.read(name), SAMPLE_MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream"))
            for name in names
        ]


def _changing(node: Node, model: str) -> AbstractContextManager[None]:
    return exclusive(node.lock(model), f"model {model} on node {node.name}")


def _unregister(node: Node, model: str, version: str) -> bool:
    """What `unregister` does, under the lock that the caller holds.

    TorchServe may fall over the requests that it has in hand for the version, and answer 500 with a
    ConcurrentModificationException. The version is off its list by then, and each worker is on its way to its end, or
    lost to it.
    """
    found = node.client.describe(model, version)
    if not found:  # a node that hangs is known sooner by a question
        return False
    try:
        return node.client.unregister(model, version)
    except ManagementError as error:
        if error.status != 500 or node.client.describe(model, version):
            raise
    pids = [worker.pid for worker in found[0].workers if worker.pid > 0] if node.is_here else []
    end = time.monotonic() + LOST_S
    while left := [pid for pid in pids if started_ticks(pid) is not None]:
        if time.monotonic() > end:
            raise NodeError(
                f"{model} {version} is off node {node.name}, but TorchServe lost sight of its workers, which still run:"
                f" pid {', '.join(map(str, left))}",
                "They end with the node: stop and start it when it can be spared.",
            )
        time.sleep(POLL_S)
    return True


def _register(node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None) -> None:
    """What `register` does, under the lock that the caller holds."""
    if node.client.describe(archive.model, archive.version):
        raise NodeError(
            f"{archive.model} {archive.version} is already registered on node {node.name}",
            "Change its workers with 'tsctl models scale', or unregister it first.",
        )
    offset = size(node.paths.worker_log)
    try:
        _ask_to_register(node, archive, workers)
        state = _require(node, archive.model, archive.version)
        if state.min_workers == 0:  # a stock archive that names none, or one without a default
            node.client.scale(archive.model, archive.version, workers or 1)
        elif workers and state.min_workers != workers:  # the archive's own minWorkers came before ours
            node.client.scale(archive.model, archive.version, workers)
        _wait_ready(node, archive.model, archive.version, note, timeout_s, offset)
        warm_wire(node, archive, note)
    except BaseException as error:
        if not (isinstance(error, ManagementError) and error.status in NOTHING_REGISTERED):
            _undo(node, archive, error)
        raise


def _ask_to_register(node: Node, archive: StoredArchive, workers: int | None) -> None:
    """The node has the version, whose workers may still have to be asked for.

    Where TorchServe fell over the last version of a model (see `_unregister`), the model keeps that one as its default,
    though it is gone: a register then registers, answers 404, and starts no worker until there is a default again.
    """
    try:
        node.client.register(archive.path.name, workers or 0)
    except ManagementError as error:
        if error.status != 404 or not node.client.describe(archive.model, archive.version):
            raise
        node.client.set_default(archive.model, archive.version)


def _require(node: Node, model: str, version: str) -> VersionState:
    found = node.client.describe(model, version)
    if not found:
        raise NodeError(f"{model} {version} is not registered on node {node.name}", "See 'tsctl models list'.")
    return found[0]


def _before_the_dead(node: Node, model: str, version: str) -> int | None:
    """How many workers stand before the first dead one; None where none is dead, or READY ones stand behind it.

    A worker is dead if its process is gone and TorchServe starts no other for LOOK_AGAIN_S. TorchServe goes on counting
    it, so that asking for the same number starts none; scaling down ends the workers at the end of its list. What
    serves is never ended for what does not. On another machine a process cannot be seen, and none is taken for dead.
    """
    if not node.is_here:
        return None
    first = _gone(_require(node, model, version))
    if not first:
        return None
    time.sleep(LOOK_AGAIN_S)
    state = _require(node, model, version)
    dead = first & _gone(state)
    place = next((n for n, worker in enumerate(state.workers) if (worker.id, worker.pid) in dead), None)
    if place is None or any(worker.is_ready for worker in state.workers[place:]):
        return None
    return place


def _gone(state: VersionState) -> set[tuple[str, int]]:
    """Id and last pid of the workers without a process."""
    return {
        (worker.id, worker.pid) for worker in state.workers if not worker.is_ready and started_ticks(worker.pid) is None
    }


def _wait_ready(node: Node, model: str, version: str, note: Note, timeout_s: float | None, offset: int) -> VersionState:
    pids: set[int] = set()

    def is_ready(state: VersionState) -> bool:
        note(f"{state.ready_workers} of {state.min_workers} workers ready")
        if state.is_ready:
            return True
        refused = _refusal(node, model, version, offset)
        if refused:
            raise NodeError(
                f"{model} {version} refused to load on node {node.name}: {refused}",
                f"What the worker wrote is in {node.paths.worker_log}.",
            )
        pids.update(worker.pid for worker in state.workers if worker.pid > 0 and not worker.is_ready)
        if len(pids) > state.min_workers + SPARE_PIDS:
            reason = last_exception(node.paths.worker_log, offset, model, version) or "see its model_log.log"
            raise NodeError(f"the workers of {model} {version} on node {node.name} crash while they load: {reason}")
        return False

    limit = timeout_s or _require(node, model, version).startup_timeout_s + PROCESS_START_S
    return _wait(node, model, version, is_ready, note, limit)


def _wait(
    node: Node, model: str, version: str, holds: Callable[[VersionState], bool], note: Note, timeout_s: float
) -> VersionState:
    end = time.monotonic() + timeout_s
    while True:
        state = _require(node, model, version)
        if holds(state):
            return state
        if time.monotonic() > end:
            seen = ", ".join(f"worker {w.id} {w.status}" for w in state.workers) or "no workers"
            raise NodeError(
                f"{model} {version} on node {node.name} is not there after {timeout_s:g} s: last seen {seen}",
                f"Look into {node.paths.worker_log}.",
            )
        time.sleep(POLL_S)


def _refusal(node: Node, model: str, version: str, offset: int) -> str:
    """Why a worker of this version refused to load since `offset`; empty where none did."""
    reports = load_reports(node.paths.worker_log, offset)
    return next(
        (r.reason for r in reversed(reports) if (r.model, r.version) == (model, version) and not r.is_ready), ""
    )


def last_exception(log: Path, offset: int, model: str, version: str) -> str:
    """The last line of this version's workers that names an exception; empty where there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(offset if offset <= size(log) else 0)
        lines = file.read().decode("utf-8", "replace").splitlines()
    pattern = re.compile(
        rf"W-\d+-{re.escape(model)}_{re.escape(version)}-std(?:err|out) - ([\w.]+(?:Error|Exception)\b.*)"
    )
    return next((match[1] for line in reversed(lines) if (match := pattern.search(line))), "")


def _undo(node: Node, archive: StoredArchive, error: BaseException) -> None:
    """Unregister what failed. An answer that never came may still be on its way, so this looks for a while.

    What fails here is added to the error that is being raised.
    """
    end = time.monotonic() + (UNDO_S if isinstance(error, Unreachable | KeyboardInterrupt) else 0.0)
    try:
        while not _unregister(node, archive.model, archive.version) and time.monotonic() < end:
            time.sleep(POLL_S)
    except NodeError as second:
        if isinstance(error, TsctlError):
            error.message += f"\nand it could not be unregistered again: {second.message}"
            error.hint = error.hint or f"Try again: tsctl models unregister {archive.model} {archive.version}"
