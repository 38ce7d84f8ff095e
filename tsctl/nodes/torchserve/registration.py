"""Registers and unregisters one version on one node, with TorchServe's failures handled; the caller holds the lock.

Invariant: a version that could not be registered is unregistered again, because TorchServe leaves it behind with
workers that crash in a loop.
"""

from __future__ import annotations

import time

from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError, TsctlError
from tsctl.host.files import size
from tsctl.host.process import started_ticks
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.client import ManagementError, VersionState
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.readiness import POLL_S, require_version, wait_ready
from tsctl.nodes.torchserve.session import Unreachable
from tsctl.nodes.torchserve.warmup import warm_up

#: Answers to a register that registered nothing of ours: the model API is off, or the version is registered already.
NOTHING_REGISTERED = (405, 409)
#: How long an interrupted or unanswered register is looked for, to unregister it.
UNDO_S = 5.0
#: How long the workers of a version that TorchServe lost may take to end.
LOST_WORKERS_S = 15.0


def register_version(
    node: Node, archive: StoredArchive, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the archive, and wait until its workers are READY and warm; arguments as for `versions.register`.

    Raises:
        NodeError: the version is registered already, or cannot be; it is unregistered again in the second case.
    """
    if node.client.describe(archive.model, archive.version):
        raise NodeError(
            f"{archive.model} {archive.version} is already registered on node {node.name}",
            "Change its workers with 'tsctl models scale', or unregister it first.",
        )
    log_offset = size(node.paths.worker_log)
    try:
        _ask_to_register(node, archive, workers)
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


def unregister_version(node: Node, model: str, version: str) -> bool:
    """Unregister the version; False if it was not registered.

    TorchServe may fail on the requests that it holds for the version, and answer 500 with a
    ConcurrentModificationException. The version is off its list by then, and each worker either ends or is lost to it.

    Raises:
        NodeError: it is the default while others exist, or its workers did not end.
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


def _ask_to_register(node: Node, archive: StoredArchive, workers: int | None) -> None:
    """Register the version; its workers may still have to be asked for.

    Where TorchServe failed on the last version of a model (see `unregister_version`), the model keeps that one as its
    default, though it is gone. A register then registers, answers 404, and starts no worker until there is a default.
    """
    try:
        node.client.register(archive.path.name, workers or 0)
    except ManagementError as error:
        if error.status != 404 or not node.client.describe(archive.model, archive.version):
            raise
        node.client.set_default(archive.model, archive.version)


def _undo(node: Node, archive: StoredArchive, error: BaseException) -> None:
    """Unregister what failed, and add to `error` what fails here.

    A register whose answer never came may still be on its way, so this looks for a while.
    """
    end = time.monotonic() + (UNDO_S if isinstance(error, Unreachable | KeyboardInterrupt) else 0.0)
    try:
        while not unregister_version(node, archive.model, archive.version) and time.monotonic() < end:
            time.sleep(POLL_S)
    except NodeError as second:
        if isinstance(error, TsctlError):
            error.message += f"\nand it could not be unregistered again: {second.message}"
            error.hint = error.hint or f"Try again: tsctl models unregister {archive.model} {archive.version}"
