"""Reads a node's logs: their last lines for an error message, and how each worker's load ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Begins the line in which a worker says how its load ended; see docs/archive-format.md.
LOAD_MARKER = "[TSCTL LOAD]"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class LoadReport:
    """How the load of one worker ended."""

    model: str
    version: str
    pid: int
    is_ready: bool
    reason: str  # empty where it is ready
    facts: dict[str, Any]


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a text file; empty where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _BLOCK))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])


def size(path: Path) -> int:
    """Bytes in the file now, to read on from later; 0 where there is no file."""
    return path.stat().st_size if path.is_file() else 0


def load_reports(path: Path, offset: int = 0) -> list[LoadReport]:
    """Every load that the workers' log tells of from `offset` on, oldest first.

    An offset past the end means that the log was rotated: it is then read from its beginning.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(offset if offset <= size(path) else 0)
        return list(_reports(file.read().decode("utf-8", "replace")))


def _reports(text: str) -> Iterator[LoadReport]:
    for line in text.splitlines():
        _, found, written = line.partition(LOAD_MARKER)
        if not found:
            continue
        try:
            facts = json.loads(written)
        except ValueError:
            continue  # cut off in the middle of the line: its end is not written yet
        if not isinstance(facts, dict):
            continue
        yield LoadReport(
            model=str(facts.get("model")),
            version=str(facts.get("version")),
            pid=int(facts.get("pid") or 0),
            is_ready=facts.get("outcome") == "ready",
            reason=str(facts.get("reason", "")),
            facts=facts,
        )
