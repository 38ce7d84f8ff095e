"""Reads how the loads of workers ended, from the log that they write into on any engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from handlers.contract import LoadReport, parse_load_report
from tsctl.host.files import lines_from


def read_load_reports(path: Path, offset: int = 0) -> list[LoadReport]:
    """Every load report in the workers' log from `offset` on, oldest first."""
    return [report for line in lines_from(path, offset) if (report := parse_load_report(line)) is not None]


def last_failures(reports: Iterable[LoadReport]) -> dict[tuple[str, str], str]:
    """Why workers of a model's version refused to load: of the last report of each, empty where that load was good.

    Args:
        reports: oldest first.
    """
    return {(report.model, report.version): "" if report.is_ready else report.reason for report in reports}
