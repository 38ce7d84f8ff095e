"""Reads what nodes serve now. The only reader: status, plans and the gateway's clusters are views of it.

Nothing here changes a node, and a node that does not answer hides no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from tsctl.errors import NodeError
from tsctl.host.progress import Note
from tsctl.nodes.fan_out import is_unavailable, run_on_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion


def observe(nodes: Sequence[Node]) -> list[ObservedNode]:
    """Every node's answer, in the order of the nodes, which are asked all at once."""
    answers = run_on_nodes(nodes, _models)
    return [ObservedNode(answer.node, answer.value or {}, answer.error) for answer in answers]


def _models(node: Node, note: Note) -> dict[str, ObservedModel]:
    """What the node serves; where nothing answers, the hint says which command helps.

    Raises:
        NodeError: it does not answer, or refuses to.
    """
    try:
        return node.models()
    except NodeError as error:
        if is_unavailable(error):
            error.hint = _what_helps(node)
        raise


def _what_helps(node: Node) -> str:
    """The commands that make a node answer."""
    if not node.is_ours:
        return f"Start node {node.name} where it is, with its own tsctl."
    start = f"tsctl node start --node {node.name}"
    if node.pid is None:
        return f"Start it: {start}"
    return f"Its process (pid {node.pid}) runs. End it and start it again: tsctl node stop --node {node.name}; {start}"


def observe_version(nodes: Sequence[Node], model: str, version: str) -> dict[str, ObservedVersion]:
    """The version on each node that answers and has it, by the node's name; cheaper than `observe`."""
    answers = run_on_nodes(nodes, lambda node, note: node.version(model, version))
    return {answer.node: answer.value for answer in answers if answer.value}
