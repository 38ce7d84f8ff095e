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
from tsctl.host.progress import Progress
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.record import read_record
from tsctl.nodes.triton import process, versions
from tsctl.nodes.triton.node import Node
from tsctl.nodes.triton.pending import forget, read_pending, remember_served

START_TIMEOUT_S = 60.0


def start_node(project: Project, node: Node, progress: Progress) -> subprocess.Popen[bytes]:
    """Start the node's process and wait until it answers; end it if this fails or is interrupted.

    Raises:
        NodeError: it runs already, cannot be started, or ended by itself.
        ConflictError: another tsctl starts it at this moment.
    """
    node.require_here()
    with exclusive(_lock(node), f"node {node.name}"):
        if node.pid:
            raise NodeError(f"node {node.name} runs already (pid {node.pid})", "Stop it with 'tsctl node stop' first.")
        remember_served(node.paths)
        with progress.step(f"starting node {node.name}") as step:
            started = process.launch(project, node.spec, node.paths)
            try:
                lower_session(started.pid, node.spec.nice)
                _wait_answering(node, started)
            except BaseException:
                process.stop(node.paths)
                raise
            step.done(f"pid {started.pid}, Triton")
        return started


def restore(project: Project, node: Node, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
    """Register again what the node served before; see `Node.restore`."""
    served: list[VersionKey] = []
    failed: list[tuple[VersionKey, str]] = []
    for entry in read_pending(node.paths):
        if entry.key not in superseded and node.repository.find(*entry.key) is None:
            try:
                with progress.step(f"restoring {entry.model} {entry.version}") as step:
                    path = project.store / entry.archive
                    if not path.is_file():
                        raise ArchiveError(
                            f"its archive {entry.archive} is no longer in {project.relative(project.published)}"
                        )
                    versions.register(node, archive_of(path), entry.version, entry.workers, step.note)
                    step.done(f"{entry.workers} ready")
                served.append(entry.key)
            except TsctlError as error:
                failed.append((entry.key, error.message))
                continue
        forget(node.paths, *entry.key)
    return Restored(tuple(served), tuple(failed))


def stop_node(node: Node, progress: Progress) -> bool:
    """End the node and its workers; False if it did not run.

    Raises:
        NodeError: processes are left that cannot be ended.
        ConflictError: another tsctl starts or stops it at this moment.
    """
    node.require_here()
    with exclusive(_lock(node), f"node {node.name}"):
        if read_record(node.folder) is None:
            return False
        with progress.step(f"stopping node {node.name}") as step:
            was_running = process.stop(node.paths)
            step.done("stopped" if was_running else "was not running; its leftovers are removed")
    return was_running


def _wait_answering(node: Node, started: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not node.client.is_live():
        if started.poll() is not None:
            raise NodeError(
                f"node {node.name} ended with status {started.returncode}:\n{process.crash_report(node.paths)}"
            )
        if time.monotonic() > end:
            raise NodeError(
                f"node {node.name} does not answer after {START_TIMEOUT_S:g} s:\n{process.crash_report(node.paths)}"
            )
        time.sleep(0.05)


def _lock(node: Node) -> Path:
    return node.folder / "locks" / "node.lock"
