"""`tsctl metrics show`: one row for each version, with figures that follow from the workers' files."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

from handlers.contract import ANSWERED_ITEMS, BATCH_ITEMS, BATCH_SECONDS, CACHE_ITEMS, FIRST_TOKEN_SECONDS
from handlers.telemetry.metrics import METRICS
from tsctl.views.metrics import COLUMNS, VersionMetrics, cells, quantile, version_metrics


class Node:
    """Metrics as the workers of one node leave them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = (ANSWERED_ITEMS, CACHE_ITEMS, BATCH_ITEMS, BATCH_SECONDS, FIRST_TOKEN_SECONDS)
        self.metrics: dict[str, Any] = {name: self._made(name) for name in names}

    def _made(self, name: str) -> Counter | Histogram:
        described = METRICS[name]
        labels = ("node", "model", "version", *described.labels)
        if described.kind == "counter":
            return Counter(name, described.help, labels, registry=self._registry)
        return Histogram(name, described.help, labels, registry=self._registry, buckets=described.buckets)

    def of(self, name: str, version: str, *labels: str) -> Any:
        return self.metrics[name].labels("local", "digits", version, *labels)

    def collect(self) -> list[Metric]:
        return list(self._registry.collect())


@pytest.mark.parametrize(
    ("share", "at_most", "expected"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0, math.inf: 0}, None),
        (0.5, {1.0: 10, 2.0: 10, math.inf: 10}, 0.5),
        (0.5, {1.0: 0, 2.0: 10, math.inf: 10}, 1.5),
        (0.99, {1.0: 50, 2.0: 100, math.inf: 100}, 1.98),
        (0.99, {1.0: 50, 2.0: 60, math.inf: 100}, 2.0),
        (0.5, {1.0: 0, 2.0: 0, math.inf: 1}, 2.0),
    ],
)
def test_a_quantile_is_prometheus_own(share: float, at_most: dict[float, float], expected: float | None) -> None:
    assert quantile(share, at_most) == (None if expected is None else pytest.approx(expected))


def test_a_row_has_the_figures_of_its_version() -> None:
    node = Node()
    node.of(ANSWERED_ITEMS, "1.0", "ok").inc(998)
    node.of(ANSWERED_ITEMS, "1.0", "does-not-fit-schema").inc(2)
    node.of(ANSWERED_ITEMS, "1.0", "model-failed").inc(0)
    for seconds in (0.002,) * 98 + (0.02,) * 2:
        node.of(BATCH_SECONDS, "1.0").observe(seconds)
    for _ in range(100):
        node.of(BATCH_ITEMS, "1.0").observe(10)
    node.of(CACHE_ITEMS, "1.0", "hit", "worker").inc(100)
    node.of(CACHE_ITEMS, "1.0", "hit", "shared").inc(100)
    node.of(CACHE_ITEMS, "1.0", "miss", "none").inc(200)
    node.of(CACHE_ITEMS, "1.0", "bypass", "none").inc(600)
    node.of(ANSWERED_ITEMS, "2.0", "ok").inc(0)
    first, second = version_metrics(node.collect())
    assert (first.node, first.model, first.version, first.requests) == ("local", "digits", "1.0", 1000)
    assert first.outcomes == {"ok": 998, "does-not-fit-schema": 2}
    assert first.p50_s == pytest.approx(0.001 + 0.0015 * 50 / 98)
    assert first.p99_s == pytest.approx(0.01 + 0.015 * 0.5)
    assert (first.batch_items, first.cache_hit_share) == (10, 0.5)
    assert second == VersionMetrics("local", "digits", "2.0", 0, {}, None, None, None, None)
    shown, empty = (dict(zip(COLUMNS, row, strict=True)) for row in cells([first, second]))
    assert (shown["outcome"], shown["p50 ms"], shown["cache"]) == ("99.80% ok, 2 does-not-fit-schema", 1.77, "50.0%")
    assert (empty["outcome"], empty["p99 ms"], empty["cache"]) == ("-", None, None)


def test_a_language_model_has_the_time_to_its_first_token() -> None:
    node = Node()
    node.of(ANSWERED_ITEMS, "1.0", "ok").inc(4)
    for _ in range(4):
        node.of(FIRST_TOKEN_SECONDS, "1.0").observe(0.15)
    [row] = version_metrics(node.collect())
    assert row.p50_s == pytest.approx(0.15)
    assert row.batch_items is None
    assert cells([row])[0][COLUMNS.index("outcome")] == "all ok"
