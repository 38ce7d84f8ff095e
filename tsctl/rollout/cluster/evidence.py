"""Reads evidence of a rollout on a cluster: the counters of the workers, from a Prometheus that scrapes their pods."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import requests

from tsctl.errors import AnalysisError
from tsctl.host.http import direct_session
from tsctl.rollout.cluster.worker_counts import SERIES, PodSample, durations_of, items_of, values_of, window_since
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import UNKNOWN, Thresholds, Window
from tsctl.rollout.evidence.prometheus import ask
from tsctl.rollout.evidence.totals import LEAST_ANSWERS, slow_threshold_ms

#: Counts of so many seconds after a change of weights belong to two weights, and are dropped: until every proxy has the
#: new one, and Prometheus has scraped what was answered before.
SETTLE_S = 45.0


class WorkerSource(Protocol):
    """Has the workers' counters."""

    def samples(self, model: str) -> list[PodSample]:
        """Every series of the model in the namespace; AnalysisError where there is no answer now."""


@dataclass(frozen=True)
class PodPrometheus:
    """A Prometheus server whose series have the labels `namespace` and `pod`."""

    address: str
    namespace: str
    session: requests.Session = field(default_factory=direct_session)

    def samples(self, model: str) -> list[PodSample]:
        query = f'{{__name__=~"{"|".join(SERIES)}",model="{model}",namespace="{self.namespace}"}}'
        return ask(self.session, self.address, query, _samples, "Does it run, and can this machine reach it?")


def _samples(results: list[dict[str, Any]], address: str) -> list[PodSample]:
    """Of each pod one series of a kind; AnalysisError where a pod is scraped twice, or a series names none."""
    seen: dict[tuple[str, str, str, str], int] = {}
    for one in results:
        metric = one["metric"]
        if not metric.get("pod"):
            raise AnalysisError(
                f"Prometheus at {address} has a series of {metric['__name__']} without the label pod",
                "Let it discover pods, with the names of pod and namespace as labels; see docs/kubernetes.md.",
            )
        label = metric.get("le") or metric.get("outcome") or metric.get("result") or ""
        key = metric["__name__"], metric["version"], metric["pod"], label
        if key in seen and "tier" not in metric:
            raise AnalysisError(f"Prometheus at {address} scrapes pod {metric['pod']} more than once")
        seen[key] = seen.get(key, 0) + round(float(one["value"][1]))
    return [PodSample(name, version, pod, value, label) for (name, version, pod, label), value in seen.items()]


@dataclass
class WorkerEvidence:
    """Counts of one rollout; the weights are those that the journal says are in force."""

    source: WorkerSource
    clock: Callable[[], float] = time.monotonic
    settle_s: float = SETTLE_S
    _weight: int | None = None  # that was in force at the last reading
    _since: float = 0.0  # when it was seen first
    _rate_from: tuple[float, int] | None = None

    def thresholds(self, state: State) -> tuple[Thresholds, Cursor]:
        samples = self.source.samples(state.model)
        durations = durations_of(samples, state.stable)
        if durations[float("inf")] < LEAST_ANSWERS:
            return UNKNOWN, {}
        found = Thresholds(slow_threshold_ms(durations, state.policy.slow_quantile))
        values = values_of(samples, (state.stable, state.canary), found.slow_ms)
        return found, {key: value for key, value in values.items() if key.startswith(("wf|", "wt|"))}

    def read(self, state: State) -> tuple[list[Window], Cursor]:
        values = self._values(state)
        query = state.in_force, state.stable, state.canary, state.policy.count_4xx
        windows, changed = window_since(state.cursor, values, *query)
        if self._weight != state.in_force:
            self._weight, self._since = state.in_force, self.clock()
        return ([] if self.clock() - self._since < self.settle_s else windows), changed

    def labels(self, state: State) -> LabelCounts | None:
        return None

    def mark(self, state: State) -> Cursor:
        return self._values(state)

    def request_rate(self, state: State) -> float:
        """Items per second of all versions, since the first call."""
        now, items = self.clock(), items_of(self.source.samples(state.model))
        if self._rate_from is None or items < self._rate_from[1]:
            self._rate_from = now, items
        since, before = self._rate_from
        if now <= since:
            raise AnalysisError("the rate of requests is being measured")
        return (items - before) / (now - since)

    def _values(self, state: State) -> dict[str, int]:
        versions = state.stable, state.canary
        return values_of(self.source.samples(state.model), versions, state.thresholds.slow_ms)
