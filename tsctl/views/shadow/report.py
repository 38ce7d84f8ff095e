"""Writes a shadow comparison as JSON, as lines, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from tsctl.errors import AnalysisError
from tsctl.host.files import write_secret
from tsctl.shadow.report import ShadowReport
from tsctl.views.html import render
from tsctl.views.shadow.figures import plots
from tsctl.views.shadow.tables import slices_text, tables, verdict_text


def document(report: ShadowReport, model: str, stable: str, shadow: str) -> dict[str, Any]:
    """The comparison as JSON values; a number that is not finite is null."""
    evidence = report.evidence
    floors = {
        kind.name.lower(): {
            "pairs": process.pairs,
            "differing": evidence.repeats_differing[kind],
            "interval": evidence.floor_bounds(kind, report.alpha),
            "above": process.estimate,
            "above_interval": evidence.above_floor_bounds(kind, report.alpha),
        }
        for kind, process in evidence.floors.items()
    }
    mcnemar = report.mcnemar
    found: dict[str, Any] = _json(
        {
            "model": model,
            "stable": stable,
            "shadow": shadow,
            "verdict": report.verdict,
            "max_disagreement": report.limit,
            "alpha": report.alpha,
            "pairs": evidence.pairs,
            "differing": evidence.differing,
            "interval": evidence.rate_bounds(report.alpha),
            "log_e_too_much": evidence.log_e_above(report.limit),
            "log_e_low_enough": evidence.log_e_below(report.limit),
            "noise_floor": floors,
            "paired_share": report.paired_share,
            "unpaired": {str(reason): count for reason, count in report.unpaired.items()},
            "slices": {"looked_at": report.looked_at, "left_out": report.left_out,
                       "features_left_out": report.features_left_out, "worst": report.worst},
            "labels": None
            if mcnemar is None
            else {**asdict(mcnemar), "p_value": mcnemar.p_value, "log_e": mcnemar.log_e,
                  "error_interval": mcnemar.error_bounds(report.alpha)},
            "latency": report.latencies,
            "examples": report.examples,
        }
    )  # fmt: skip
    return found


def lines(report: ShadowReport, stable: str, shadow: str) -> list[str]:
    """The comparison for a terminal."""
    shown = [verdict_text(report, stable, shadow)]
    for heading, table in tables(report).items():
        shown += ["", f"{heading}:", *table.lines()]
    return [*shown, "", slices_text(report)]


def render_report(report: ShadowReport, model: str, stable: str, shadow: str, period: str) -> str:
    """Render the whole page; `period` says of which time the records are."""
    return render(
        "shadow_report.html",
        title=f"{model}: {shadow} as shadow of {stable}",
        period=period,
        verdict=report.verdict,
        sentence=verdict_text(report, stable, shadow),
        slices=slices_text(report),
        plots=list(plots(report)),
        tables=tables(report),
        alpha=report.alpha,
    )


def write_report(path: Path, page: str) -> None:
    """Write the page, readable by its owner alone: it has answers to clients.

    Raises:
        AnalysisError: the file cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, page)
    except OSError as error:
        raise AnalysisError(f"{path} cannot be written: {error.strerror}", "Give another file with --html.") from None


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return _json(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
