"""Runs one operation on several nodes at once and reports the result of each.

Invariant: a failure on one node neither stops nor hides what happens on another. On one node the operation runs
serially, as it is written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tsctl.errors import NodeError, TsctlError
from tsctl.host.progress import Note
from tsctl.nodes.node import Node, NotRunning, Unreachable

Value = TypeVar("Value")


@dataclass(frozen=True)
class NodeResult(Generic[Value]):
    """The result of the operation on one node: a value, or an error."""

    node: str
    value: Value | None
    error: TsctlError | None = None


@dataclass(frozen=True)
class NodeChange:
    """A change on one node as it is reported: the outcome in a word, and details where there are some."""

    outcome: str
    detail: str = ""


def _ignore(text: str) -> None:
    """Drop the note."""


def run_on_nodes(
    nodes: Sequence[Node], act: Callable[[Node, Note], Value], note: Note = _ignore
) -> list[NodeResult[Value]]:
    """Run the operation on every node at once; the results stand in the order of the nodes.

    Args:
        act: the operation; a TsctlError that it raises is a result. It calls its note wherever it may be interrupted.
        note: gets the latest note of every node, in one line.

    Raises:
        Exception: the first one of `act` that is no TsctlError, after all nodes were tried.
        KeyboardInterrupt: after the operation of each node met one at its next note, and undid what it undoes.
    """
    notes: dict[str, str] = {}
    is_interrupted = threading.Event()
    lock = threading.Lock()

    def run(node: Node) -> NodeResult[Value]:
        def note_node(text: str) -> None:
            if is_interrupted.is_set():
                raise KeyboardInterrupt
            with lock:
                notes[node.name] = text
                note("; ".join(f"{name}: {last}" for name, last in sorted(notes.items())))

        try:
            return NodeResult(node.name, act(node, note_node))
        except TsctlError as error:
            return NodeResult(node.name, None, error)

    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        running = [pool.submit(run, node) for node in nodes]
        try:
            wait(running)
        except BaseException:
            is_interrupted.set()
            raise
    return [future.result() for future in running]


def combined_error(results: Sequence[NodeResult[Any]], operation: str) -> NodeError | None:
    """One error that names every node on which the operation failed; None where it failed on none.

    Args:
        operation: its name, such as `registering digits 2.0`.
    """
    errors = {result.node: result.error for result in results if result.error is not None}
    if not errors:
        return None
    hints = dict.fromkeys(error.hint for error in errors.values() if error.hint and not is_unavailable(error))
    again = "Run this again when all nodes answer. Nodes on which it is done stay as they are."
    return NodeError(
        f"{operation} failed on {len(errors)} of {len(results)} nodes: {', '.join(errors)}",
        "\n       ".join([*hints, again]),
    )


def is_unavailable(error: TsctlError) -> bool:
    """Whether nothing answered: the node is down or cut off, and the same operation may succeed later."""
    return isinstance(error, Unreachable | NotRunning)
