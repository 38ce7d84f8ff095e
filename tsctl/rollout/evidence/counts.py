"""Turns the gateway's counters into windows of evidence. Pure.

A cursor holds the last value of every series, so that reading goes on where it stopped, in whatever process. A counter
that fell was reset by a restart of Envoy, and counts from zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tsctl.config.weights import TOTAL
from tsctl.gateway.counters import REQUEST_MS, REQUESTS, Sample, bucket_edge, shortest_over
from tsctl.gateway.traffic import BY_WEIGHT
from tsctl.rollout.decide.evidence import OutcomeCounts, Window

Cursor = Mapping[str, int]

#: Most classes that are judged one by one.
MOST_CLASSES = 50
#: Fewest answers of a version from which a quantile of their durations is taken.
LEAST_ANSWERS = 100
#: Begins the keys of a cursor that count slow answers.
SLOW = "s|"


@dataclass(frozen=True)
class EvidenceQuery:
    """The evidence to read.

    Args:
        slow_ms: an answer that took as long or longer is slow; `shortest_over` an edge of the histogram. None: none is.
    """

    model: str
    stable: str
    canary: str
    count_4xx: bool = False
    slow_ms: float | None = None


def counter_values(samples: Iterable[Sample], query: EvidenceQuery) -> dict[str, int]:
    """The values that the query needs, by the keys of a cursor.

    `r|version|weight|status|class` counts requests, `s|version|weight|slow_ms` those that took as long as that.
    """
    values: dict[str, int] = {}
    totals: dict[str, int] = {}
    for sample in samples:
        labels = sample.labels
        if labels.get("model") != query.model or labels.get("by") != BY_WEIGHT:
            continue  # testers and pinned requests were not sent to their version by chance
        if labels.get("version") not in (query.stable, query.canary):
            continue
        key = f"{labels['version']}|{labels['weight']}"
        if sample.name == REQUESTS:
            values[f"r|{key}|{labels['status']}|{labels.get('class', '')}"] = sample.value
        elif sample.name == f"{REQUEST_MS}_count":
            totals[key] = sample.value
        elif (edge := bucket_edge(sample)) is not None and shortest_over(edge) == query.slow_ms:
            values[f"{SLOW}{key}|{query.slow_ms:g}"] = -sample.value
    for name in [name for name in values if name.startswith(SLOW)]:
        _, version, weight, _ = name.split("|")
        values[name] += totals.get(f"{version}|{weight}", 0)
    return values


def windows_since(
    cursor: Cursor, values: Mapping[str, int], query: EvidenceQuery
) -> tuple[list[Window], dict[str, int]]:
    """New windows since the cursor, one for each weight, and the changes of the cursor."""
    changed = {key: value for key, value in values.items() if value != cursor.get(key, 0)}
    totals: dict[int, dict[str, OutcomeCounts]] = {}
    for key, value in changed.items():
        before = cursor.get(key, 0)
        count = value - before if value > before else value
        kind, version, weight, *rest = key.split("|", 4)
        if not weight.isdigit():
            continue
        counts = totals.setdefault(int(weight) if version == query.canary else TOTAL - int(weight), {})
        counts[version] = counts.get(version, OutcomeCounts()) + _counts(kind, rest, count, query)
    windows = [
        Window(weight, counts.get(query.stable, OutcomeCounts()), counts.get(query.canary, OutcomeCounts()))
        for weight, counts in sorted(totals.items())
    ]
    return windows, changed


def _counts(kind: str, rest: list[str], count: int, query: EvidenceQuery) -> OutcomeCounts:
    if kind == "s":
        return OutcomeCounts(slow=count)
    status, predicted = rest
    return OutcomeCounts(
        requests=count,
        errors=count if is_error(status, query.count_4xx) else 0,
        classes={predicted: count} if predicted and predicted != "-" else {},
    )


def is_error(status: str, count_4xx: bool) -> bool:
    """Whether an answer with this status counts against its version; 0 is a client that left."""
    return status.startswith("5") or (count_4xx and status.startswith("4"))


@dataclass(frozen=True)
class Durations:
    """Durations of a version's answers.

    Args:
        total: of all answers.
        below: answers that took less than some milliseconds, each `shortest_over` an edge.
    """

    total: int
    below: Mapping[float, int]

    def __sub__(self, before: Durations) -> Durations:
        """Answers since an earlier reading; all of them where a counter was reset since."""
        if before.total > self.total:
            return self
        below = {slow_ms: count - before.below.get(slow_ms, 0) for slow_ms, count in self.below.items()}
        return Durations(self.total - before.total, below)

    def slow_ms(self, quantile: float) -> float | None:
        """The least duration that at most a share of 1 - quantile of the answers reached; None where there is none."""
        most = (1 - quantile) * self.total
        return min((slow_ms for slow_ms, count in self.below.items() if self.total - count <= most), default=None)


def durations_of(samples: Iterable[Sample], model: str, version: str) -> Durations:
    """Durations of the version's answers to requests that came by weight, since the gateway began to count."""
    total, below = 0, dict[float, int]()
    for sample in samples:
        labels = sample.labels
        if (labels.get("model"), labels.get("version"), labels.get("by")) != (model, version, BY_WEIGHT):
            continue
        if sample.name == f"{REQUEST_MS}_count":
            total += sample.value
        elif (edge := bucket_edge(sample)) is not None:
            slow_ms = shortest_over(edge)
            below[slow_ms] = below.get(slow_ms, 0) + sample.value
    return Durations(total, below)


def classes_of(samples: Iterable[Sample], model: str, version: str) -> tuple[str, ...]:
    """The classes that the version predicted, the most frequent first, MOST_CLASSES at most."""
    counts: dict[str, int] = {}
    for sample in samples:
        labels = sample.labels
        name = labels.get("class", "")
        if sample.name == REQUESTS and (labels.get("model"), labels.get("version")) == (model, version) and name:
            counts[name] = counts.get(name, 0) + sample.value
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CLASSES])


def requests_of(samples: Iterable[Sample], model: str) -> int:
    """Requests that the model's route got by weight, since the gateway began to count."""
    return sum(
        sample.value
        for sample in samples
        if sample.name == REQUESTS and sample.labels.get("model") == model and sample.labels.get("by") == BY_WEIGHT
    )
