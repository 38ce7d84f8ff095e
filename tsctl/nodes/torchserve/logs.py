"""Reads a node's logs: their last lines, how each worker's load ended, and the last exception."""

from __future__ import annotations

import re
from pathlib import Path

from handlers.contract import LoadReport, parse_load_report

_BLOCK = 1 << 16


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a text file; empty where there is no file."""
    return "\n".join(_lines(path, max(0, size(path) - _BLOCK))[-lines:])


def size(path: Path) -> int:
    """Bytes in the file now, to read on from later; 0 where there is no file."""
    return path.stat().st_size if path.is_file() else 0


def load_reports(path: Path, offset: int = 0) -> list[LoadReport]:
    """Every load report in the workers' log from `offset` on, oldest first."""
    return [report for line in _lines(path, offset) if (report := parse_load_report(line)) is not None]


def last_exception(path: Path, offset: int, model: str, version: str) -> str:
    """The last line of this version's workers that names an exception; empty where there is none."""
    pattern = re.compile(
        rf"W-\d+-{re.escape(model)}_{re.escape(version)}-std(?:err|out) - ([\w.]+(?:Error|Exception)\b.*)"
    )
    matches = [match[1] for line in _lines(path, offset) if (match := pattern.search(line))]
    return matches[-1] if matches else ""


def _lines(path: Path, offset: int) -> list[str]:
    """The lines from `offset` on; an offset past the end means that the log was rotated, and all are read."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(offset if offset <= size(path) else 0)
        return file.read().decode("utf-8", "replace").splitlines()
