"""Reads a node's logs: their last lines for an error message, and how each worker's load ended."""

from __future__ import annotations

from pathlib import Path

from handlers.contract import LoadReport, parse_load_report

_BLOCK = 1 << 16


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
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [report for line in lines if (report := parse_load_report(line)) is not None]
