"""Sums over the gateway's counters since it began to count: requests, cache hits, classes and durations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from tsctl.gateway.counters import (
    REQUEST_MS,
    REQUESTS,
    Sample,
    bucket_edge,
    shortest_over,
)
from tsctl.rollout.evidence.counts import _is_hit, by_weight

#: Answers that took less than some milliseconds, each `shortest_over` an edge; all answers under `inf`.
Durations = Counter[float]


#: Most classes that are judged one by one.
MOST_CLASSES = 50


#: Fewest answers of a version from which a quantile of their durations is taken.
LEAST_ANSWERS = 100


def durations_of(samples: Iterable[Sample], model: str, version: str) -> Durations:
    """Durations of answers that the version computed, of requests by weight, since the gateway began to count."""
    durations = Durations()
    for sample in by_weight(samples, model):
        if sample.labels.get("version") != version or _is_hit(sample):
            continue
        if sample.name == f"{REQUEST_MS}_count":
            durations[inf] += sample.value
        elif (edge := bucket_edge(sample)) is not None:
            durations[shortest_over(edge)] += sample.value
    return durations


def slow_threshold_ms(durations: Durations, quantile: float) -> float | None:
    """The least duration that at most a share of 1 - quantile of the answers reached; None where there is none."""
    total, most = durations[inf], (1 - quantile) * durations[inf]
    return min((ms for ms, count in durations.items() if ms < inf and total - count <= most), default=None)


def classes_of(samples: Iterable[Sample], model: str, version: str) -> tuple[str, ...]:
    """The classes that the version predicted, the most frequent first, MOST_CLASSES at most."""
    counts = Counter[str]()
    for sample in samples:
        labels = sample.labels
        name = labels.get("class", "")
        if sample.name == REQUESTS and (labels.get("model"), labels.get("version")) == (model, version) and name:
            counts[name] += sample.value
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])


def requests_of(samples: Iterable[Sample], model: str, version: str | None = None) -> int:
    """Requests that the model's route got by weight, since the gateway began to count; of one version, or of all."""
    counted = (sample for sample in by_weight(samples, model) if sample.name == REQUESTS)
    return sum(sample.value for sample in counted if version in (None, sample.labels.get("version")))


def hits_of(samples: Iterable[Sample], model: str, version: str | None = None) -> int:
    """Those of these requests that a cache answered."""
    return requests_of((sample for sample in samples if _is_hit(sample)), model, version)
