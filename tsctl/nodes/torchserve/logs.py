"""Reads a node's logs: how each worker's load ended, and the last exception."""

from __future__ import annotations

import re
from pathlib import Path

from handlers.contract import LoadReport, parse_load_report
from tsctl.host.files import lines_from


def load_reports(path: Path, offset: int = 0) -> list[LoadReport]:
    """Every load report in the workers' log from `offset` on, oldest first."""
    return [report for line in lines_from(path, offset) if (report := parse_load_report(line)) is not None]


def last_exception(path: Path, offset: int, model: str, version: str) -> str:
    """The last line of this version's workers that names an exception; empty where there is none."""
    pattern = re.compile(
        rf"W-\d+-{re.escape(model)}_{re.escape(version)}-std(?:err|out) - ([\w.]+(?:Error|Exception)\b.*)"
    )
    matches = [match[1] for line in lines_from(path, offset) if (match := pattern.search(line))]
    return matches[-1] if matches else ""
