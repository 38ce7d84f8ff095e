"""Changes one version on one node, one change of a model at a time, and waits until the change is true.

Invariant: every function returns only when the version is in the state that it names. It raises NodeError otherwise,
and ConflictError while another tsctl changes this model on this node. A version that could not be registered is
unregistered again, because TorchServe leaves it behind with workers that crash in a loop. The lock of the model is held
by the public functions.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from tsctl.archive.store import StoredArchive, archive_of, require_whole
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import size
from tsctl.host.locks import exclusive
from tsctl.host.process import started_ticks
from tsctl.host.progress import Note
from tsctl.nodes.node import Unreachable
from tsctl.nodes.registered import add_failed_undo, already_registered, require_as_wanted, still_served
from tsctl.nodes.torchserve.client import ManagementError, VersionState
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.readiness import (
    POLL_S,
    require_version,
    wait_ready,
    wait_state,
    warm_up,
    workers_before_dead,
)
from tsctl.nodes.torchserve.served import forget

#: How long workers may take to end.
ENDING_S = 60.0
#: Answers to a register that registered nothing of ours: the model API is off, or the version is registered already.
NOTHING_REGISTERED = (405, 409)
#: How long an interrupted or unanswered register is looked for, to unregister it.
UNDO_S = 5.0
#: How long an archive may take to come to another machine's store, where `tsctl archive pull --every` brings it.
ARRIVAL_S, ARRIVAL_POLL_S = 300.0, 2.0
#: How long the workers of a version that TorchServe lost may take to end.
LOST_WORKERS_S = 15.0


def register(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the archive's version, and wait until its workers are READY and warm.

    Args:
        workers: how many; None: as the archive says.
        note: gets the progress.
        timeout_s: None: the archive's startup timeout and a minute for the process.

    Raises:
        ArchiveError: its file is damaged, or TorchServe may read another archive in it than tsctl does.
        NodeError: it cannot be registered; it is unregistered again.
    """
    with _locked(node, archive.model):
        _register(node, archive, workers, note, timeout_s)


def ensure(node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None) -> bool:
    """Register the version as `register` does, unless it is registered; False where it was.

    A version whose workers still load, because the tsctl that registered it was killed, is waited for.

    Raises:
        NodeError: it cannot be registered, or other bytes or another number of workers are registered.
    """
    with _locked(node, archive.model):
        states = node.client.describe(archive.model, archive.version)
        if not states:
            _register(node, archive, workers, note, timeout_s)
            return True
        state = states[0]
        require_as_wanted(archive, archive.version, workers, node.name, state.archive, state.min_workers)
        if not state.is_ready:
            wait_ready(node, archive.model, archive.version, note, timeout_s, size(node.paths.worker_log))
            warm_up(node, archive, note)
        return False


def scale(
    node: Node, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
) -> VersionState:
    """Give the version exactly this many workers, all READY; dead ones are restarted.

    Raises:
        NodeError: it is not registered, or does not have them before the deadline.
    """
    with _locked(node, model):
        require_version(node, model, version)
        log_offset = size(node.paths.worker_log)
        kept = workers_before_dead(node, model, version) if workers else None
        if kept is not None and kept < workers:
            note("ending dead workers")
            node.client.scale(model, version, kept)
            wait_state(node, model, version, lambda state: len(state.workers) <= kept, ENDING_S)
        node.client.scale(model, version, workers)
        limit_s = timeout_s or ENDING_S
        state = wait_state(node, model, version, lambda state: len(state.workers) <= workers, limit_s)
        return wait_ready(node, model, version, note, timeout_s, log_offset) if workers else state


def unregister(node: Node, model: str, version: str) -> bool:
    """Remove the version from the node; False if it was not registered.

    Raises:
        NodeError: it is the default while others exist, or its workers did not end.
    """
    with _locked(node, model):
        forget(node.paths.pending_restore, model, version)
        return _unregister(node, model, version)


def set_default(node: Node, model: str, version: str) -> None:
    """Let the version, which has READY workers, answer callers that name none.

    Raises:
        NodeError: it is not registered, or not ready: TorchServe would answer 503 at once.
    """
    with _locked(node, model):
        state = require_version(node, model, version)
        if not state.is_ready:
            raise NodeError(
                f"{model} {version} on node {node.name} has {state.ready_workers} ready workers of {state.min_workers},"
                " so it cannot become the default",
                f"Scale it first: tsctl models scale {model} {version} 1",
            )
        node.client.set_default(model, version)


def replace(node: Node, archive: StoredArchive, workers: int | None, note: Note) -> None:
    """Replace the bytes of a version; the default stays what it was.

    Where the new bytes do not load, the old ones are registered again.

    Raises:
        NodeError: the new bytes do not load, or no other version can be the default meanwhile.
    """
    model, version = archive.model, archive.version
    require_whole(archive)
    with _locked(node, model):
        served = require_version(node, model, version)
        has_moved = _move_default(node, model, version)
        _unregister(node, model, version)
        try:
            _register_or_restore(node, served, archive, workers, note)
        finally:
            if has_moved and node.client.describe(model, version):
                node.client.set_default(model, version)


def _move_default(node: Node, model: str, version: str) -> bool:
    """Make another ready version the default where this one is; True if that was so.

    TorchServe does not unregister a default version while others exist.
    """
    is_default = node.client.default_version(model) == version
    others = [state for state in node.client.describe(model) if state.version != version]
    if not (is_default and others):
        return False
    ready = next((state for state in others if state.is_ready), None)
    if ready is None:
        raise NodeError(
            f"{model} {version} on node {node.name} is the default, and no other version is ready to replace it",
            f"Scale another one first: tsctl models scale {model} {others[0].version} 1",
        )
    node.client.set_default(model, ready.version)
    return True


def _register_or_restore(
    node: Node, served: VersionState, archive: StoredArchive, workers: int | None, note: Note
) -> None:
    try:
        _register(node, archive, workers, note)
    except NodeError as error:
        old = archive.other_build(served.archive)
        if not old.is_file():
            raise
        note("registering the old bytes again")
        _register(node, archive_of(old), served.min_workers or None, note)
        raise still_served(error, *archive.key, old.name) from error


def _register(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the archive as `register` does; NodeError where the version is registered already."""
    if node.client.describe(archive.model, archive.version):
        raise already_registered(*archive.key, node.name)
    require_whole(archive)
    log_offset = size(node.paths.worker_log)
    try:
        _ask_to_register(node, archive, workers, note, timeout_s)
        state = require_version(node, archive.model, archive.version)
        if state.min_workers == 0:  # a stock archive that names none, or one without a default
            node.client.scale(archive.model, archive.version, workers or 1)
        elif workers and state.min_workers != workers:  # the archive's own minWorkers came before ours
            node.client.scale(archive.model, archive.version, workers)
        wait_ready(node, archive.model, archive.version, note, timeout_s, log_offset)
        warm_up(node, archive, note)
    except BaseException as error:
        if not (isinstance(error, ManagementError) and error.status in NOTHING_REGISTERED):
            _undo(node, archive, error)
        raise


def _unregister(node: Node, model: str, version: str) -> bool:
    """Unregister the version; False if it was not registered.

    TorchServe may fail on the requests that it holds for the version, and answer 500 with a
    ConcurrentModificationException. The version is off its list by then, and each worker either ends or is lost to it.
    """
    states = node.client.describe(model, version)
    if not states:  # describing first finds a node that hangs sooner
        return False
    try:
        return node.client.unregister(model, version)
    except ManagementError as error:
        if error.status != 500 or node.client.describe(model, version):
            raise
    if node.is_here:
        _wait_workers_ended(node, states[0])
    return True


def _wait_workers_ended(node: Node, state: VersionState) -> None:
    end = time.monotonic() + LOST_WORKERS_S
    while left := [worker.pid for worker in state.workers if started_ticks(worker.pid) is not None]:
        if time.monotonic() > end:
            raise NodeError(
                f"{state.model} {state.version} is unregistered from node {node.name}, but its workers still run, and"
                f" TorchServe no longer knows them: pid {', '.join(map(str, left))}",
                "They end with the node: stop and start it when it can be spared.",
            )
        time.sleep(POLL_S)


def _ask_to_register(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the version; its workers may still have to be asked for.

    A node on another machine may be asked before the archive was pulled there, which is waited for.

    Where TorchServe failed on the last version of a model (see `_unregister`), the model keeps that one as its
    default, though it is gone. A register then registers, answers 404, and starts no worker until there is a default.
    """
    end = time.monotonic() + (0.0 if node.is_here or not _has_store(node) else timeout_s or ARRIVAL_S)
    while True:
        try:
            return node.client.register(archive.path.name, workers or 0)
        except ManagementError as error:
            if error.status != 404:
                raise
            if node.client.describe(archive.model, archive.version):
                return node.client.set_default(archive.model, archive.version)
            if time.monotonic() >= end:
                if not node.is_here:
                    error.hint = (
                        f"The archive must be in the model store of the machine of node {node.name}. There:"
                        f" tsctl archive pull {archive.model}:{archive.version}@{archive.digest}"
                    )
                raise
        note(f"waiting until {archive.path.name} was pulled where the node is")
        time.sleep(ARRIVAL_POLL_S)


def _has_store(node: Node) -> bool:
    project = Project(node.folder.parents[2])  # its folder is .tsctl/nodes/NAME
    return project.deployment.is_file() and read_deployment(project.deployment).store is not None


def _undo(node: Node, archive: StoredArchive, error: BaseException) -> None:
    """Unregister what failed, and add to `error` what fails here.

    A register whose answer never came may still be on its way, so this looks for a while.
    """
    end = time.monotonic() + (UNDO_S if isinstance(error, Unreachable | KeyboardInterrupt) else 0.0)
    try:
        while not _unregister(node, archive.model, archive.version) and time.monotonic() < end:
            time.sleep(POLL_S)
    except NodeError as second:
        add_failed_undo(error, second, *archive.key)


def _locked(node: Node, model: str) -> AbstractContextManager[object]:
    return exclusive(node.lock(model), f"model {model} on node {node.name}")
