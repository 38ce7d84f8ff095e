"""The table of what targets served, a row for each target and number of users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.figures import Result
from benchmarks.text.statistics import Served, Times

COLUMNS = (
    "part", "target", "users", "tokens/s", "first ms", "p90", "p99", "per token ms", "p90", "p99", "gap ms", "p99",
    "answers", "failed", "model cpu ms", "server", "gateway", "client",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one target served in one turn.

    Args:
        users: at once, or how often they came.
        client_cpu: share of a core that the client took.
        spent_ms: processor time for each token, of the processes of each part.
    """

    target: str
    users: str
    served: Served
    client_cpu: float
    spent_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TextResult(Result):
    """A part of the benchmark, with its rows."""

    rows: Sequence[Row] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {key: _without_nan(value) for key, value in super().as_json().items()}


def rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """A row of COLUMNS for each turn."""
    return [_row(result.key, row) for result in results if isinstance(result, TextResult) for row in result.rows]


def _row(key: str, row: Row) -> tuple[object, ...]:
    seen = row.served
    answers = sum(seen.outcomes.values())
    return (
        key, row.target, row.users, round(seen.tokens_s), *_cells(seen.first), *_cells(seen.token),
        _ms(seen.gap.p50), _ms(seen.gap.p99), answers, seen.failed,
        *(round(row.spent_ms[part], 2) if part in row.spent_ms else None for part in ("model", "server", "gateway")),
        f"{row.client_cpu:.0%}",
    )  # fmt: skip


def _cells(times: Times) -> tuple[object, ...]:
    return _ms(times.p50), _ms(times.p90), _ms(times.p99)


def _ms(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 1)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
