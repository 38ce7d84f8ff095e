"""Starts a node, waits until it answers, and registers again what it served before; stops it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, TsctlError
from tsctl.host.locks import exclusive
from tsctl.host.process import lower_session
from tsctl.host.progress import Note, Progress
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.record import read_record
from tsctl.nodes.torchserve import process
from tsctl.nodes.torchserve.java import find_java
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.properties import parse_properties
from tsctl.nodes.torchserve.served import ServedVersion, forget, read_pending, remember_served
from tsctl.nodes.torchserve.versions import register, scale, set_default

START_TIMEOUT_S = 60.0


def start_node(project: Project, node: Node, progress: Progress) -> subprocess.Popen[bytes]:
    """Start the node's process and wait until its management API answers; end it if this fails or is interrupted.

    Raises:
        NodeError: it runs already, cannot be started, or ended by itself.
        ConflictError: another tsctl starts it at this moment.
    """
    _require_local(node)
    with exclusive(_lock(node), f"node {node.name}"):
        if node.pid:
            raise NodeError(f"node {node.name} runs already (pid {node.pid})", "Stop it with 'tsctl node stop' first.")
        process.require_free_space(node.paths.folder)
        remember_served(node.paths)
        java = find_java()
        for reason in java.rejected:
            progress.line(f"skipped {reason}")
        with progress.step(f"starting node {node.name}") as step:
            started = process.launch(project, node.spec, node.paths, java)
            try:
                lower_session(started.pid, node.spec.nice)
                _wait_answering(node, started)
            except BaseException:
                process.stop(node.paths)
                raise
            node.refresh_header()
            step.done(f"pid {started.pid}, Java {java.major} ({java.source})")
        return started


def restore(project: Project, node: Node, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
    """Register again what the node served before; one that fails stops no other, and is tried at the next start.

    Args:
        superseded: (model, version) pairs that the caller will register itself from newer bytes.
    """
    served: list[VersionKey] = []
    failed: list[tuple[VersionKey, str]] = []
    for entry in read_pending(node.paths.pending_restore):
        if entry.key not in superseded and not node.client.describe(*entry.key):
            try:
                with progress.step(f"restoring {entry.model} {entry.version}") as step:
                    _restore_version(project, node, entry, step.note)
                    step.done(f"{entry.min_workers} ready")
                served.append(entry.key)
            except TsctlError as error:
                failed.append((entry.key, error.message))
                continue
        forget(node.paths.pending_restore, *entry.key)
    return Restored(tuple(served), tuple(failed))


def require_same_addresses(node: Node) -> None:
    """Check that the running node has the addresses that deployment.yaml gives it.

    Raises:
        NodeError: it was started with other addresses.
    """
    started = parse_properties(node.paths.config.read_text(encoding="utf-8"))
    for name in ("inference", "management", "metrics"):
        has, wanted = started.get(f"{name}_address"), getattr(node.spec, name)
        if has != wanted:
            raise NodeError(
                f"node {node.name} runs with {name} address {has}, and deployment.yaml says {wanted}",
                "Set it back, run 'make down' (tsctl down), change it again, and then run 'make up' (tsctl up).",
            )


def stop_node(node: Node, progress: Progress) -> bool:
    """End the node and its workers; False if it did not run.

    Raises:
        NodeError: processes are left that cannot be ended.
        ConflictError: another tsctl starts or stops it at this moment.
    """
    _require_local(node)
    with exclusive(_lock(node), f"node {node.name}"):
        if read_record(node.folder) is None:
            return False
        with progress.step(f"stopping node {node.name}") as step:
            was_running = process.stop(node.paths)
            step.done("stopped" if was_running else "was not running; its leftovers are removed")
    return was_running


def _restore_version(project: Project, node: Node, entry: ServedVersion, note: Note) -> None:
    path = project.store / entry.archive
    if not path.is_file():
        raise ArchiveError(f"its archive {entry.archive} is no longer in {project.relative(project.published)}")
    register(node, archive_of(path), entry.min_workers or None, note)
    if entry.is_default and node.client.default_version(entry.model) != entry.version:
        set_default(node, entry.model, entry.version)
    if entry.min_workers == 0:
        scale(node, entry.model, entry.version, 0, note)


def _wait_answering(node: Node, started: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        if started.poll() is not None:
            raise NodeError(
                f"node {node.name} ended with status {started.returncode}:\n{process.crash_report(node.paths)}"
            )
        last = _not_answering(node)
        if not last:
            return
        if time.monotonic() > end:
            raise NodeError(
                f"node {node.name} does not answer after {START_TIMEOUT_S:g} s ({last}):\n"
                f"{process.crash_report(node.paths)}"
            )
        time.sleep(0.05)


def _not_answering(node: Node) -> str:
    """The reason why the management API does not answer; empty where it does. The key file may be half-written."""
    try:
        node.client.states()
    except NodeError as error:
        return error.message
    return ""


def _lock(node: Node) -> Path:
    return node.paths.folder / "locks" / "node.lock"


def _require_local(node: Node) -> None:
    if not node.is_here:
        raise NodeError(
            f"node {node.name} is on {node.spec.host}, not on this machine",
            "Start and stop it there, with its own tsctl.",
        )
    if node.spec.key_file is not None:
        raise NodeError(
            f"deployment.yaml gives node {node.name} a key_file, so tsctl does not start it",
            "Remove key_file to start the node here; tsctl then finds its tokens itself.",
        )
