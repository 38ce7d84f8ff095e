"""`--all-nodes`: one operation on every node of deployment.yaml, shown as a line for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.output import print_table

if TYPE_CHECKING:
    from tsctl.host.progress import Note
    from tsctl.nodes.fan_out import NodeChange
    from tsctl.nodes.torchserve.node import Node

AllNodes = Annotated[
    bool, typer.Option("--all-nodes", help="Every node of deployment.yaml, all at once; exit code 4 if one failed.")
]


def change_on_nodes(nodes: Sequence[Node], what: str, act: Callable[[Node, Note], NodeChange]) -> None:
    """Do it on every node and print how it ended on each.

    Args:
        what: the operation, such as `registering digits 2.0`.

    Raises:
        NodeError: it failed on at least one, after all were tried.
    """
    from tsctl.host.progress import Progress
    from tsctl.nodes.fan_out import combined_error, run_on_nodes

    with Progress().step(what) as step:
        ended = run_on_nodes(nodes, act, step.note)
        step.done(f"done on {sum(one.error is None for one in ended)} of {len(ended)} nodes")
    rows = []
    for one in ended:
        if one.value is not None:
            rows.append((one.node, one.value.outcome, one.value.detail))
        elif one.error is not None:
            rows.append((one.node, "failed", one.error.summary))
    print_table(("node", "outcome", "detail"), rows)
    if error := combined_error(ended, what):
        raise error
