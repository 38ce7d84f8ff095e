"""Registers again what a node served before it ended."""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, TsctlError
from tsctl.host.progress import Note, Progress
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.pending import forget, merge, read_pending, write_pending
from tsctl.nodes.torchserve.snapshot import ServedVersion, last_served, prune_snapshots
from tsctl.nodes.torchserve.versions import register, scale, set_default


@dataclass(frozen=True)
class Restored:
    """The versions that came back after a start, and those that did not, with the reason."""

    served: tuple[ServedVersion, ...]
    failed: tuple[tuple[ServedVersion, str], ...]


def remember_served(node: Node) -> None:
    """Keep what the node served last, before its start writes an empty snapshot."""
    pending = read_pending(node.paths.pending_restore)
    write_pending(node.paths.pending_restore, merge(last_served(node.paths.snapshots), pending))
    prune_snapshots(node.paths.snapshots)


def restore(project: Project, node: Node, progress: Progress, superseded: frozenset[tuple[str, str]]) -> Restored:
    """Register again what the node served before; one that fails stops no other, and is tried at the next start.

    Args:
        superseded: (model, version) pairs that the caller will register itself from newer bytes.
    """
    served: list[ServedVersion] = []
    failed: list[tuple[ServedVersion, str]] = []
    for entry in read_pending(node.paths.pending_restore):
        if (entry.model, entry.version) not in superseded and not node.client.describe(entry.model, entry.version):
            try:
                with progress.step(f"restoring {entry.model} {entry.version}") as step:
                    _restore_version(project, node, entry, step.note)
                    step.done(f"{entry.min_workers} ready")
                served.append(entry)
            except TsctlError as error:
                failed.append((entry, error.message))
                continue
        forget(node.paths.pending_restore, entry.model, entry.version)
    return Restored(tuple(served), tuple(failed))


def _restore_version(project: Project, node: Node, entry: ServedVersion, note: Note) -> None:
    path = project.store / entry.archive
    if not path.is_file():
        raise ArchiveError(f"its archive {entry.archive} is no longer in {project.relative(project.store)}")
    register(node, archive_of(path), entry.min_workers or None, note)
    if entry.is_default and node.client.default_version(entry.model) != entry.version:
        set_default(node, entry.model, entry.version)
    if entry.min_workers == 0:
        scale(node, entry.model, entry.version, 0, note)
