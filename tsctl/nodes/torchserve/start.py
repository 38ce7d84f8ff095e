"""Starts a node, waits until it answers, and registers again what it served before; stops it."""

from __future__ import annotations

import subprocess

from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, TsctlError
from tsctl.host.progress import Note, Progress
from tsctl.nodes import process
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.torchserve import process as torchserve
from tsctl.nodes.torchserve.java import Java, find_java
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.served import ServedVersion, forget, read_pending, remember_served
from tsctl.nodes.torchserve.versions import register, scale, set_default


def start_node(project: Project, node: Node, progress: Progress) -> subprocess.Popen[bytes]:
    """Start the node's process and wait until its management API answers; raises as `process.start`."""
    java: Java | None = None

    def launch() -> subprocess.Popen[bytes]:
        nonlocal java
        remember_served(node.paths)
        java = find_java()
        for reason in java.rejected:
            progress.line(f"skipped {reason}")
        return torchserve.launch(project, node.spec, node.paths, java)

    def done(pid: int) -> str:
        node.refresh_header()
        return f"pid {pid}" + (f", Java {java.major} ({java.source})" if java is not None else "")

    def end() -> object:
        return torchserve.stop(node.paths)

    return process.start(node, progress, launch, lambda: _not_answering(node), done, end)


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


def stop_node(node: Node, progress: Progress) -> bool:
    """End the node and its workers; False if it did not run. Raises as `process.stop`."""
    return process.stop(node, progress, lambda: torchserve.stop(node.paths))


def _restore_version(project: Project, node: Node, entry: ServedVersion, note: Note) -> None:
    path = project.store / entry.archive
    if not path.is_file():
        raise ArchiveError(f"its archive {entry.archive} is no longer in {project.relative(project.published)}")
    node.prepare(archive_of(path), note)
    register(node, archive_of(path), entry.min_workers or None, note)
    if entry.is_default and node.client.default_version(entry.model) != entry.version:
        set_default(node, entry.model, entry.version)
    if entry.min_workers == 0:
        scale(node, entry.model, entry.version, 0, note)


def _not_answering(node: Node) -> str:
    """The reason why the management API does not answer; empty where it does. The key file may be half-written."""
    try:
        node.client.states()
    except NodeError as error:
        return error.message
    return ""
