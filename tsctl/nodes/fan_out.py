"""Runs one operation on several nodes at once, and says for each node how it ended.

Invariant: what fails on one node neither stops nor hides what happens on another. Within one node an operation is as
serial as it is written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tsctl.errors import NodeError, TsctlError
from tsctl.nodes.torchserve.client import Unreachable
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.tokens import NoKeyFile

Value = TypeVar("Value")
Note = Callable[[str], None]


@dataclass(frozen=True)
class Ended(Generic[Value]):
    """How the operation ended on one node: with a value, or with what a person can mend."""

    node: str
    value: Value | None
    error: TsctlError | None = None


@dataclass(frozen=True)
class Done:
    """What an operation that changes something says of itself: a word for it, and more where there is more."""

    word: str
    detail: str = ""


def _unheard(text: str) -> None:
    """Nobody is told."""


def on_every(nodes: Sequence[Node], act: Callable[[Node, Note], Value], note: Note = _unheard) -> list[Ended[Value]]:
    """The operation was tried on every node, all at once; how it ended, in the order of the nodes.

    Args:
        act: the operation; a TsctlError of it is an outcome. It calls its own note wherever it may be interrupted.
        note: told what is happening, of all nodes in one line.

    Raises:
        Exception: the first one of `act` that is no TsctlError, after all nodes were tried.
        KeyboardInterrupt: after each node's operation met one at its next note, and undid what it undoes.
    """
    said: dict[str, str] = {}
    is_interrupted = threading.Event()
    lock = threading.Lock()

    def one(node: Node) -> Ended[Value]:
        def told(text: str) -> None:
            if is_interrupted.is_set():
                raise KeyboardInterrupt
            with lock:
                said[node.name] = text
                note("; ".join(f"{name}: {last}" for name, last in sorted(said.items())))

        try:
            return Ended(node.name, act(node, told))
        except TsctlError as error:
            return Ended(node.name, None, error)

    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        running = [pool.submit(one, node) for node in nodes]
        try:
            wait(running)
        except BaseException:
            is_interrupted.set()
            raise
    return [future.result() for future in running]


def failure(ended: Sequence[Ended[Any]], what: str) -> NodeError | None:
    """The error that names every node on which it failed, and says to run it again; None where it failed on none.

    Args:
        what: the operation, such as `registering digits 2.0`.
    """
    failed = [one for one in ended if one.error is not None]
    if not failed:
        return None
    hints = dict.fromkeys(one.error.hint for one in failed if one.error is not None and not is_away(one.error))
    again = "Run this again when all nodes answer; a node where it is done stays as it is."
    return NodeError(
        f"{what} failed on {len(failed)} of {len(ended)} nodes: {', '.join(one.node for one in failed)}",
        "\n       ".join([*filter(None, hints), again]),
    )


def is_away(error: TsctlError) -> bool:
    """Whether nothing answered: the node is down or cut off, and the operation may succeed as it is another time."""
    return isinstance(error, Unreachable | NoKeyFile)


def reason(error: TsctlError) -> str:
    """Why it failed, on one line."""
    return " ".join(error.message.split())
