"""Runs workloads one after the other, and renders their results as tables and as a JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.figures import Figure, Result, Turn, median_turn
from benchmarks.harness.machine import machine_facts
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import TsctlError
from tsctl.host.progress import Progress

#: Decimal places of a figure, by its unit.
DECIMALS = {
    "requests/s": 0, "times": 2, "ms": 2, "share": 3, "requests": 0, "pairs": 0, "items": 0,
    "users": 0, "streams": 0, "canaries": 0, "cases": 0, "weeks": 0, "s": 1, "%": 2, "MiB": 0, "us": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The arguments of a workload.

    Args:
        rounds: turns of every target.
        seconds: measured load per turn.
    """

    project: Project
    deployment: DeploymentSpec
    rounds: int
    seconds: int
    progress: Progress


Run = Callable[[Job], Result]


def run_workloads(
    workloads: Mapping[str, Run], keys: Sequence[str], job: Job, out: Path
) -> tuple[list[Result], dict[str, Any]]:
    """The results, and the document that was written to `out`; it is written anew after every workload.

    Args:
        keys: of the workloads, in the order in which they run.

    A workload that fails does not stop the others; `failed` of the document has its reason, by key.
    """
    facts = machine_facts()
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    failed: dict[str, str] = {}
    document: dict[str, Any] = {}
    for key in keys:
        try:
            results.append(workloads[key](job))
        except TsctlError as error:
            job.progress.line(f"workload {key} failed: {error.message}")
            failed[key] = error.message
        document = {
            "machine": facts,
            "rounds": job.rounds,
            "seconds": job.seconds,
            "failed": failed,
            "workloads": [result.as_json() for result in results],
        }
        out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return results, document


TARGET_COLUMNS = (
    "workload", "target", "requests/s", "p50 ms", "p99 ms", "failed", "workers us", "server us", "load us",
)  # fmt: skip
FIGURE_COLUMNS = ("workload", "figure", "value", "unit", "goal", "reached", "rounds")


def target_rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """A row of TARGET_COLUMNS for each target under load; the last three are processor time per request."""
    return [_target_row(result.key, name, turns) for result in results for name, turns in result.targets.items()]


def figure_rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """A row of FIGURE_COLUMNS for each figure."""
    return [_figure_row(result.key, figure) for result in results for figure in result.figures]


def notes(results: Sequence[Result]) -> list[str]:
    """The lines below the tables: what was left out or not measured, and why."""
    lines = [f"{result.key}: {note}" for result in results for note in result.notes]
    return lines + [f"{r.key}: {f.name}: not measured, {f.why_not}" for r in results for f in r.figures if f.why_not]


def _target_row(key: str, name: str, turns: list[Turn]) -> tuple[object, ...]:
    turn = median_turn(turns)
    cpu = turn.cpu_us or {}
    spent = [round(cpu[kind]) if kind in cpu else None for kind in ("workers", "server", "load")]
    return (key, name, round(turn.requests_s), _rounded(turn.p50_ms), _rounded(turn.p99_ms), turn.failed, *spent)


def _figure_row(key: str, figure: Figure) -> tuple[object, ...]:
    rounds = [f"{value:,.{DECIMALS[figure.unit]}f}" for value in figure.rounds]
    value = None if figure.value is None else f"{figure.value:,.{DECIMALS[figure.unit]}f}"
    reached = {True: "yes", False: "no", None: None}[figure.is_reached]
    return (key, figure.name, value, figure.unit, figure.goal, reached, " ".join(rounds))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
