"""Writes a comparison as one HTML file that needs nothing else: no network, no script, no font, no second file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tsctl.compare.advice import Advice
from tsctl.compare.result import Comparison
from tsctl.errors import AnalysisError
from tsctl.host.files import write_public
from tsctl.views.compare.figures import bars, plots
from tsctl.views.compare.tables import bare_line, cost_table, missing_lines, overload_table, setting_line, speed_table
from tsctl.views.html import render
from tsctl.views.table import Table


def render_report(comparison: Comparison, advice: Advice) -> str:
    """Render the whole page."""
    setting = comparison.setting
    return render(
        "comparison.html",
        title=f"Engines for {setting.model} {setting.version}",
        setting=setting_line(comparison),
        is_clear=len(advice.engines) == 1,
        sentence=advice.sentence,
        limits=advice.limits,
        bare=bare_line(comparison),
        plots=list(plots(comparison)),
        bars=bars(comparison),
        tables=_tables(comparison),
        missing=missing_lines(comparison),
        machine={name: str(value) for name, value in setting.machine.items()},
    )


def _tables(comparison: Comparison) -> dict[str, Table]:
    tables = {"Speed": speed_table(comparison), "Cost": cost_table(comparison)}
    overload = overload_table(comparison)
    return {**tables, "Twice the requests that it can answer": overload} if overload else tables


def document(comparison: Comparison, advice: Advice) -> dict[str, Any]:
    """The comparison and its advice as JSON values."""
    return {**comparison.as_json(), "advice": asdict(advice)}


def lines(comparison: Comparison, advice: Advice) -> list[str]:
    """The same for a terminal."""
    shown = [setting_line(comparison), bare_line(comparison)]
    for heading, table in _tables(comparison).items():
        if table.rows:
            shown += ["", f"{heading}:", *table.lines()]
    if missing := missing_lines(comparison):
        shown += ["", "Not measured:", *missing]
    return [*shown, "", advice.sentence, *advice.limits]


def write_report(path: Path, comparison: Comparison, advice: Advice) -> None:
    """Write the page, and the JSON beside it; readers see the old files or the whole new ones.

    Raises:
        AnalysisError: they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_public(path, render_report(comparison, advice))
        write_public(path.with_suffix(".json"), json.dumps(document(comparison, advice), indent=2) + "\n")
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error.strerror}", "Give another file with --out.") from None
