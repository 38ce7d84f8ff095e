"""The places whose records a project reads: the folders of its nodes on this machine, and the shared one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tsctl.config.project import Project
from tsctl.nodes.node import Node
from tsctl.records.database import Place


def labels_folder(project: Project) -> Path:
    """Where labels are kept."""
    return project.state / "labels"


def places_of(nodes: Iterable[Node], shared: str | None) -> list[Place]:
    """The folders of those of the nodes that are on this machine, and the shared place where there is one.

    Args:
        shared: an address as of `Place`; None: each node keeps its own.
    """
    own = [Place(node.name, str(node.records_folder.resolve())) for node in nodes if node.is_here]
    return [*own, *([Place("", shared)] if shared else [])]
