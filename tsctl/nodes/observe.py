"""Reads what nodes serve now. The only reader: status, plans and the gateway's clusters are views of it.

Nothing here changes a node, and a node that does not answer hides no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observed import ObservedNode, ObservedVersion


def observe(nodes: Sequence[Node]) -> list[ObservedNode]:
    """Every node's answer, in the order of the nodes, which are asked all at once."""
    answers = run_on_nodes(nodes, lambda node, note: node.models())
    return [ObservedNode(answer.node, answer.value or {}, answer.error) for answer in answers]


def observe_version(nodes: Sequence[Node], model: str, version: str) -> dict[str, ObservedVersion]:
    """The version on each node that answers and has it, by the node's name; cheaper than `observe`."""
    answers = run_on_nodes(nodes, lambda node, note: node.version(model, version))
    return {answer.node: answer.value for answer in answers if answer.value}
