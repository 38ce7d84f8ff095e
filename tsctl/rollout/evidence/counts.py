"""Turns the gateway's counters into windows of evidence. Pure.

A cursor holds the last value of every series that was read, so that evidence goes on where it stopped, whoever reads
it. A counter that fell was reset, by an Envoy that started anew, and counts from zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tsctl.config.weights import TOTAL
from tsctl.gateway.counters import REQUEST_MS, REQUESTS, Sample, bucket_edge, shortest_over
from tsctl.gateway.traffic import BY_WEIGHT
from tsctl.rollout.decide.evidence import OutcomeCounts, Window

Cursor = Mapping[str, int]

#: Of a mix, so many classes are judged one by one.
MOST_CLASSES = 50
#: How a cursor's keys begin that count slow answers.
SLOW = "s|"


@dataclass(frozen=True)
class EvidenceQuery:
    """What evidence is asked for.

    Args:
        slow_ms: an answer that took as long or longer is slow; `shortest_over` an edge of the histogram. None: none is.
    """

    model: str
    stable: str
    canary: str
    count_4xx: bool = False
    slow_ms: float | None = None


def series(samples: Iterable[Sample], query: EvidenceQuery) -> dict[str, int]:
    """What the query needs of a reading, by keys that a cursor can hold.

    `r|version|weight|status|class` counts requests, `s|version|weight|slow_ms` those that took as long as that.
    """
    found: dict[str, int] = {}
    whole: dict[str, int] = {}
    slow = query.slow_ms
    for sample in samples:
        told = sample.labels
        if told.get("model") != query.model or told.get("by") != BY_WEIGHT:
            continue  # testers and pinned requests were not sent to their version by chance
        if told.get("version") not in (query.stable, query.canary):
            continue
        place = f"{told['version']}|{told['weight']}"
        if sample.name == REQUESTS:
            found[f"r|{place}|{told['status']}|{told.get('class', '')}"] = sample.value
        elif sample.name == f"{REQUEST_MS}_count":
            whole[place] = sample.value
        elif (edge := bucket_edge(sample)) is not None and shortest_over(edge) == slow:
            found[f"{SLOW}{place}|{slow:g}"] = -sample.value
    for key in [key for key in found if key.startswith(SLOW)]:
        _, version, weight, _ = key.split("|")
        found[key] += whole.get(f"{version}|{weight}", 0)
    return found


def advance(now: Mapping[str, int], cursor: Cursor, query: EvidenceQuery) -> tuple[list[Window], dict[str, int]]:
    """Windows of what came since the cursor, one for each weight; and what changed of the cursor."""
    changed = {key: value for key, value in now.items() if value != cursor.get(key, 0)}
    found: dict[int, dict[str, OutcomeCounts]] = {}
    for key, value in changed.items():
        before = cursor.get(key, 0)
        count = value - before if value > before else value
        kind, version, own, *rest = key.split("|", 4)
        if not own.isdigit():
            continue
        weight = int(own) if version == query.canary else TOTAL - int(own)
        at = found.setdefault(weight, {})
        at[version] = at.get(version, OutcomeCounts()) + _seen(kind, rest, count, query)
    windows = [
        Window(weight, at.get(query.stable, OutcomeCounts()), at.get(query.canary, OutcomeCounts()))
        for weight, at in sorted(found.items())
    ]
    return windows, changed


def _seen(kind: str, rest: list[str], count: int, query: EvidenceQuery) -> OutcomeCounts:
    if kind == "s":
        return OutcomeCounts(slow=count)
    status, named = rest
    return OutcomeCounts(
        requests=count,
        errors=count if is_error(status, query.count_4xx) else 0,
        classes={named: count} if named and named != "-" else {},
    )


def is_error(status: str, count_4xx: bool) -> bool:
    """Whether an answer with this status speaks against its version; 0 is a client that went away."""
    return status.startswith("5") or (count_4xx and status.startswith("4"))


@dataclass(frozen=True)
class Answers:
    """How long a version's answers took: how many took less than some milliseconds, each `shortest_over` an edge."""

    total: int
    below: Mapping[float, int]

    def __sub__(self, before: Answers) -> Answers:
        """What came since an earlier reading; all of it where a counter was reset since."""
        if before.total > self.total:
            return self
        below = {slow_ms: count - before.below.get(slow_ms, 0) for slow_ms, count in self.below.items()}
        return Answers(self.total - before.total, below)

    def slow_ms(self, quantile: float) -> float | None:
        """The least of these that at most a share of 1 - quantile of the answers reached; None where there is none."""
        most = (1 - quantile) * self.total
        return min((slow_ms for slow_ms, count in self.below.items() if self.total - count <= most), default=None)


def answers_of(samples: Iterable[Sample], model: str, version: str) -> Answers:
    """How long the version's answers to requests that came by weight took, since the gateway began to count."""
    total, below = 0, dict[float, int]()
    for sample in samples:
        told = sample.labels
        if (told.get("model"), told.get("version"), told.get("by")) != (model, version, BY_WEIGHT):
            continue
        if sample.name == f"{REQUEST_MS}_count":
            total += sample.value
        elif (edge := bucket_edge(sample)) is not None:
            slow_ms = shortest_over(edge)
            below[slow_ms] = below.get(slow_ms, 0) + sample.value
    return Answers(total, below)


def classes_of(samples: Iterable[Sample], model: str, version: str) -> tuple[str, ...]:
    """The classes that the version predicted, the most frequent first, MOST_CLASSES at most."""
    found: dict[str, int] = {}
    for sample in samples:
        told = sample.labels
        name = told.get("class", "")
        if sample.name == REQUESTS and (told.get("model"), told.get("version")) == (model, version) and name:
            found[name] = found.get(name, 0) + sample.value
    return tuple(sorted(found, key=lambda name: (-found[name], name))[:MOST_CLASSES])


def requests_of(samples: Iterable[Sample], model: str) -> int:
    """Requests that the model's route got by weight, since the gateway began to count."""
    return sum(
        sample.value
        for sample in samples
        if sample.name == REQUESTS and sample.labels.get("model") == model and sample.labels.get("by") == BY_WEIGHT
    )
