"""Where the nodes of this machine keep their records."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tsctl.errors import NodeError
from tsctl.nodes.node import Node
from tsctl.records.database import Place


def places_of(nodes: Iterable[Node]) -> list[Place]:
    """The folders of those of the nodes that are on this machine.

    Raises:
        NodeError: none is.
    """
    here = [each for each in nodes if each.is_here]
    if not here:
        raise NodeError("no such node is on this machine, and each writes records where it runs", "Run this there.")
    return [Place(each.name, str(each.records_folder.resolve())) for each in here]


def require_here(nodes: Iterable[Node], names: Collection[str]) -> None:
    """Raises NodeError where one of the named nodes is on another machine, so that its records cannot be read."""
    away = sorted(node.name for node in nodes if node.name in names and not node.is_here)
    if away:
        raise NodeError(
            f"node {', '.join(away)} is on another machine, and its records are read only there",
            "Leave 'shadow' out of the rollout policy, or compare with 'tsctl shadow report --from' a shared folder.",
        )
