"""`--all-nodes`: one operation on every node of deployment.yaml, with a line for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsctl.cli.output import print_table
from tsctl.host.progress import Note, Progress
from tsctl.nodes.fan_out import NodeChange, combined_error, run_on_nodes
from tsctl.nodes.torchserve.node import Node


def change_nodes(
    nodes: Sequence[Node], all_nodes: bool, operation: str, act: Callable[[Node, Note], NodeChange]
) -> None:
    """Change the nodes and print the outcome: a table where all nodes were asked for, else a word about the only one.

    Args:
        operation: its name, such as `registering digits 2.0`.

    Raises:
        NodeError: it failed on at least one node, after all were tried.
    """
    with Progress().step(operation) as step:
        if not all_nodes:
            change = act(nodes[0], step.note)
            step.done(f"{change.detail or change.outcome} on node {nodes[0].name}")
            return
        results = run_on_nodes(nodes, act, step.note)
        step.done(f"done on {sum(result.error is None for result in results)} of {len(results)} nodes")
    rows = []
    for result in results:
        if result.value is not None:
            rows.append((result.node, result.value.outcome, result.value.detail))
        elif result.error is not None:
            rows.append((result.node, "failed", result.error.summary))
    print_table(("node", "outcome", "detail"), rows)
    if error := combined_error(results, operation):
        raise error
