"""Summarises the metrics of workers for people: one row for each version on each node. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric

from handlers.contract import (
    ANSWERED_ITEMS,
    BATCH_ITEMS,
    BATCH_SECONDS,
    CACHE_ITEMS,
    FIRST_TOKEN_SECONDS,
)

COLUMNS = ("node", "model", "version", "requests", "outcome", "p50 ms", "p99 ms", "batch", "cache")


@dataclass
class _Counts:
    """What the samples of one version add up to."""

    outcomes: dict[str, float] = field(default_factory=dict)
    batches: dict[float, float] = field(default_factory=dict)  # batches that took at most so many seconds
    first_tokens: dict[float, float] = field(default_factory=dict)
    cached: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    items: float = 0.0
    batch_count: float = 0.0


@dataclass(frozen=True)
class VersionMetrics:
    """One version on one node since the node's start; checks, warm-up and golden samples are in none of it."""

    node: str
    model: str
    version: str
    requests: int  # items: a body with several of them counts as several
    outcomes: dict[str, int]  # "ok", or the kind of an error; only those that occurred
    p50_s: float | None  # time of a batch in the worker; of a language model, until the first token
    p99_s: float | None
    batch_items: float | None  # mean; None: no batch, or a language model
    cache_hit_share: float | None  # of the lookups; None: there were none


def version_metrics(metrics: Iterable[Metric]) -> list[VersionMetrics]:
    """The rows of the versions whose workers became ready, by model, version and node."""
    counts: dict[tuple[str, str, str], _Counts] = defaultdict(_Counts)
    for metric in metrics:
        for sample in metric.samples:
            labels = sample.labels
            place = labels.get("model", ""), labels.get("version", ""), labels.get("node", "")
            _add(counts[place], sample.name, labels, sample.value)
    return [_row(*place, counts[place]) for place in sorted(counts)]


def quantile(share: float, at_most: dict[float, float]) -> float | None:
    """The quantile of a histogram, interpolated inside its bucket as PromQL's `histogram_quantile` does.

    Args:
        at_most: counts by upper bound, with the one of infinity; a quantile beyond the largest bound is that bound.
    """
    ordered = sorted(at_most.items())
    total = ordered[-1][1] if ordered else 0.0
    if not total:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower if math.isinf(bound) else bound), count
    return lower


def cells(rows: Sequence[VersionMetrics]) -> list[tuple[object, ...]]:
    """The rows with the cells of COLUMNS; numbers are rounded for people."""
    return [
        (
            row.node,
            row.model,
            row.version,
            row.requests,
            _outcome(row),
            _rounded(row.p50_s, 1000),
            _rounded(row.p99_s, 1000),
            _rounded(row.batch_items, 1),
            None if row.cache_hit_share is None else f"{row.cache_hit_share:.1%}",
        )
        for row in rows
    ]


def _add(counts: _Counts, name: str, labels: dict[str, str], value: float) -> None:
    if name == ANSWERED_ITEMS:
        counts.outcomes[labels["outcome"]] = counts.outcomes.get(labels["outcome"], 0) + value
    elif name == f"{BATCH_SECONDS}_bucket":
        counts.batches[float(labels["le"])] = value
    elif name == f"{FIRST_TOKEN_SECONDS}_bucket":
        counts.first_tokens[float(labels["le"])] = value
    elif name == CACHE_ITEMS:
        counts.cached[labels["result"]] += value
    elif name == f"{BATCH_ITEMS}_sum":
        counts.items = value
    elif name == f"{BATCH_ITEMS}_count":
        counts.batch_count = value


def _row(model: str, version: str, node: str, counts: _Counts) -> VersionMetrics:
    times = counts.batches if any(counts.batches.values()) else counts.first_tokens
    looked_up = counts.cached["hit"] + counts.cached["miss"]
    return VersionMetrics(
        node,
        model,
        version,
        round(sum(counts.outcomes.values())),
        {outcome: round(count) for outcome, count in counts.outcomes.items() if count},
        quantile(0.5, times),
        quantile(0.99, times),
        counts.items / counts.batch_count if counts.batch_count else None,
        counts.cached["hit"] / looked_up if looked_up else None,
    )


def _outcome(row: VersionMetrics) -> str:
    """'all ok', or the share that is, and how many of each other outcome."""
    if not row.requests:
        return "-"
    others = {outcome: count for outcome, count in row.outcomes.items() if outcome != "ok"}
    if not others:
        return "all ok"
    named = ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items(), key=lambda one: -one[1]))
    return f"{row.outcomes.get('ok', 0) / row.requests:.2%} ok, {named}"


def _rounded(value: float | None, scale: float) -> Any:
    """Three digits that count."""
    return None if value is None else float(f"{value * scale:.3g}")
