"""Changes one version on one node, one change of a model at a time, and waits until the change is true.

Invariant: every function returns only when the version is in the state that it names. It raises NodeError otherwise,
and ConflictError while another tsctl changes this model on this node.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from tsctl.archive.store import StoredArchive, archive_of
from tsctl.errors import NodeError
from tsctl.host.files import size
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.client import VersionState
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.pending import forget
from tsctl.nodes.torchserve.readiness import require_version, wait_ready, wait_until, workers_before_dead
from tsctl.nodes.torchserve.registration import register_version, unregister_version
from tsctl.nodes.torchserve.warmup import warm_up

#: How long workers may take to end.
ENDING_S = 60.0


def register(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the archive's version, and wait until its workers are READY and warm.

    Args:
        workers: how many; None: as the archive says.
        note: gets the progress.
        timeout_s: None: the archive's startup timeout and a minute for the process.

    Raises:
        NodeError: it cannot be registered; it is unregistered again.
    """
    with _locked(node, archive.model):
        register_version(node, archive, workers, note, timeout_s)


def ensure(node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None) -> bool:
    """Register the version as `register` does, unless it is registered; False where it was.

    A version whose workers still load, because the tsctl that registered it was killed, is waited for.

    Raises:
        NodeError: it cannot be registered, or other bytes or another number of workers are registered.
    """
    name = f"{archive.model} {archive.version}"
    with _locked(node, archive.model):
        states = node.client.describe(archive.model, archive.version)
        if not states:
            register_version(node, archive, workers, note, timeout_s)
            return True
        state = states[0]
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
            wait_until(node, model, version, lambda state: len(state.workers) <= kept, ENDING_S)
        node.client.scale(model, version, workers)
        limit_s = timeout_s or ENDING_S
        state = wait_until(node, model, version, lambda state: len(state.workers) <= workers, limit_s)
        return wait_ready(node, model, version, note, timeout_s, log_offset) if workers else state


def unregister(node: Node, model: str, version: str) -> bool:
    """Remove the version from the node; False if it was not registered.

    Raises:
        NodeError: it is the default while others exist, or its workers did not end.
    """
    with _locked(node, model):
        forget(node.paths.pending_restore, model, version)
        return unregister_version(node, model, version)


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
    with _locked(node, model):
        served = require_version(node, model, version)
        has_moved = _move_default(node, model, version)
        unregister_version(node, model, version)
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
        register_version(node, archive, workers, note)
    except NodeError as error:
        old = archive.path.with_name(served.archive)
        if not old.is_file():
            raise
        note("registering the old bytes again")
        register_version(node, archive_of(old), served.min_workers or None, note)
        name = f"{archive.model} {archive.version}"
        raise NodeError(f"{error.message}\n{name} serves what it served before, {old.name}", error.hint) from error


def _locked(node: Node, model: str) -> AbstractContextManager[None]:
    return exclusive(node.lock(model), f"model {model} on node {node.name}")
