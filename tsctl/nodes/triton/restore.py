"""Registers again what a node served before it was started."""

from __future__ import annotations

from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import VersionKey
from tsctl.nodes.triton import versions
from tsctl.nodes.triton.node import Node
from tsctl.nodes.triton.pending import forget, read_pending


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
