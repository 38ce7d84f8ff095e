"""Turns the gateway's counters into windows of evidence. Pure.

A cursor holds the last value of every series, so that reading goes on where it stopped, in whatever process. A counter
that fell was reset by a restart of Envoy, and counts from zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf

from tsctl.config.weights import TOTAL
from tsctl.gateway.counters import (
    CLIENT_FAILURES,
    CLIENT_REQUESTS,
    REQUEST_MS,
    REQUESTS,
    Sample,
    bucket_edge,
    shortest_over,
)
from tsctl.gateway.traffic import BY_WEIGHT
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.windows import NOTHING, ClientCounts, OutcomeCounts, Window
from tsctl.rollout.evidence.answers import HIT, Answer

#: By weight of the canary and version.
Totals = defaultdict[tuple[int, str], OutcomeCounts]
#: Answers that took less than some milliseconds, each `shortest_over` an edge; all answers under `inf`.
Durations = Counter[float]

#: Most classes that are judged one by one.
MOST_CLASSES = 50
#: Fewest answers of a version from which a quantile of their durations is taken.
LEAST_ANSWERS = 100
#: Begins the keys of a cursor that count requests.
REQUEST = "r|"
#: Begins those that count slow answers, and those that count answers with a time.
SLOW, TIMED = "s|", "t|"
#: Begins those that count failures of a client.
FAILURE = "e|"
_COUNTERS = (REQUEST, SLOW, TIMED, FAILURE)
#: Begins the keys of one of several Envoys, with its name and this end; SEEN says that the cursor knows it.
_ENVOY, _END, SEEN = "g|", "||", "seen"
#: Labels of an answer behind its status, in a key of a cursor.
_OF_ANSWER = ("flags", "deadline", "cache")


@dataclass(frozen=True)
class EvidenceQuery:
    """The evidence to read.

    Args:
        slow_ms: an answer that took as long or longer is slow; `shortest_over` an edge of the histogram. None: none is.
        token_ms: of a language model, an answer whose tokens took as long each has slow tokens.
        is_by_user: the route divides users.
    """

    model: str
    stable: str
    canary: str
    count_4xx: bool = False
    slow_ms: float | None = None
    token_ms: float | None = None
    is_by_user: bool = False

    def canary_weight(self, version: str, weight: int) -> int:
        """The canary's weight while the version had this one."""
        return weight if version == self.canary else TOTAL - weight

    def of_client(
        self, before: ClientCounts, version: str, more: OutcomeCounts, users: OutcomeCounts = NOTHING
    ) -> ClientCounts:
        """The counts of a client after more events of a version."""
        if version == self.canary:
            return replace(before, canary=before.canary + more, canary_users=before.canary_users + users)
        return replace(before, stable=before.stable + more, stable_users=before.stable_users + users)


def counter_values(samples: Iterable[Sample], query: EvidenceQuery) -> dict[str, int]:
    """The values that the query needs, by the keys of a cursor.

    `r|version|weight|answer|class` counts requests, `s|version|weight|slow_ms` those that took as long as that. The
    answer is its status, and behind semicolons the labels _OF_ANSWER, where they have a value.
    `t|version|weight` counts those whose times are known, none of them from a cache. `e|version|answer|client` counts
    failures of a client.
    """
    samples = list(samples)
    chosen = [s for s in by_weight(samples, query.model) if s.labels.get("version") in (query.stable, query.canary)]
    totals = {_computed(sample): sample.value for sample in chosen if sample.name == f"{REQUEST_MS}_count"}
    values: dict[str, int] = {}
    for sample in chosen:
        place, labels = _place(sample), sample.labels
        if sample.name == REQUESTS:
            values[f"{REQUEST}{place}|{_answer_text(labels)}|{labels.get('class', '')}"] = sample.value
        elif sample.name == f"{REQUEST_MS}_count" and not _is_hit(sample):
            values[f"{TIMED}{place}"] = values.get(f"{TIMED}{place}", 0) + sample.value
        elif (edge := bucket_edge(sample)) is not None and shortest_over(edge) == query.slow_ms and not _is_hit(sample):
            key = f"{SLOW}{place}|{query.slow_ms:g}"
            values[key] = values.get(key, 0) + totals.get(_computed(sample), 0) - sample.value
    for labels, value in _of_clients(samples, query.model, CLIENT_FAILURES):
        if labels.get("version") in (query.stable, query.canary):
            values[f"{FAILURE}{labels['version']}|{_answer_text(labels)}|{labels.get('client', '')}"] = value
    return values


def together(parts: Mapping[str, list[Sample]]) -> list[Sample]:
    """The samples of several Envoys, of each series the sum. A cursor is never made of it: see `cursor_of`."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    values = Counter[tuple[str, tuple[tuple[str, str], ...]]]()
    for samples in parts.values():
        for sample in samples:
            values[sample.name, tuple(sorted(sample.labels.items()))] += sample.value
    return [Sample(name, dict(labels), value) for (name, labels), value in values.items()]


def cursor_of(parts: Mapping[str, list[Sample]], query: EvidenceQuery) -> dict[str, int]:
    """The values that the query needs, of each Envoy: any of them may start anew, and then only its counts fall."""
    return {
        f"{_prefix(name)}{key}": value
        for name, samples in parts.items()
        for key, value in {**counter_values(samples, query), **({SEEN: 1} if name else {})}.items()
    }


def is_of(kind: str, key: str) -> bool:
    """Whether a key of a cursor, of whatever Envoy, counts this kind."""
    return (key.partition(_END)[2] if key.startswith(_ENVOY) else key).startswith(kind)


def _prefix(name: str) -> str:
    return f"{_ENVOY}{name}{_END}" if name else ""


def windows_of_all(
    cursor: Cursor, parts: Mapping[str, list[Sample]], query: EvidenceQuery, shares: Mapping[str, float]
) -> tuple[list[Window], dict[str, int]]:
    """As `windows_since`, of several Envoys: a window for each weight, whichever of them had it in force.

    One of several that the cursor does not know has counted for an unknown time: its counts are evidence from now on.
    """
    by_weight: dict[int, Window] = {}
    changed: dict[str, int] = {}
    for name, samples in parts.items():
        prefix = _prefix(name)
        own = {key.removeprefix(prefix): value for key, value in cursor.items() if key.startswith(prefix)}
        if name and SEEN not in own:
            changed |= cursor_of({name: samples}, query)
            continue
        windows, more = windows_since(own, counter_values(samples, query), query, shares)
        changed |= {f"{prefix}{key}": value for key, value in more.items()}
        for window in windows:
            known = by_weight.get(window.weight)
            by_weight[window.weight] = window if known is None else known + window
    return [by_weight[weight] for weight in sorted(by_weight)], changed


def client_shares(samples: Iterable[Sample], model: str) -> dict[str, float]:
    """Each client's share of the requests that came by weight, since the gateway began to count."""
    requests = {labels.get("client", ""): value for labels, value in _of_clients(samples, model, CLIENT_REQUESTS)}
    total = sum(requests.values())
    return {client: round(value / total, 4) for client, value in requests.items() if total}


def _of_clients(samples: Iterable[Sample], model: str, name: str) -> Iterator[tuple[Mapping[str, str], int]]:
    for sample in samples:
        labels = sample.labels
        if (sample.name, labels.get("model"), labels.get("by")) == (name, model, BY_WEIGHT):
            yield labels, sample.value


def _answer_text(labels: Mapping[str, str]) -> str:
    others = (labels.get(name, "").strip("-") for name in _OF_ANSWER)
    return ";".join((labels["status"], *others)).rstrip(";")


def by_weight(samples: Iterable[Sample], model: str) -> Iterator[Sample]:
    """Those of requests that went to a version of the model by chance, and not because a tester named it.

    A request that the gateway refuses before it chooses a version, with 413 or 429, has no weight.
    """
    for sample in samples:
        labels = sample.labels
        if (labels.get("model"), labels.get("by")) == (model, BY_WEIGHT) and labels.get("weight", "").isdigit():
            yield sample


def _is_hit(sample: Sample) -> bool:
    return sample.labels.get("cache") == HIT


def _computed(sample: Sample) -> tuple[str, str]:
    """Tells the series of one histogram from others; those that a cache did not answer are several."""
    return _place(sample), sample.labels.get("cache", "")


def _place(sample: Sample) -> str:
    return f"{sample.labels['version']}|{sample.labels['weight']}"


def is_reset(cursor: Cursor, values: Mapping[str, int]) -> bool:
    """Whether the gateway has restarted since the cursor: a count of requests has fallen.

    All its counters began anew then, those as well that have passed their old values since. Counts that are missing say
    nothing: a Prometheus server that lost its data has them again later.
    """
    return any(value < cursor.get(key, 0) for key, value in values.items() if key.startswith(REQUEST))


def windows_since(
    cursor: Cursor, values: Mapping[str, int], query: EvidenceQuery, shares: Mapping[str, float]
) -> tuple[list[Window], dict[str, int]]:
    """New windows since the cursor, one for each weight, and the changes of the cursor.

    Args:
        shares: of the requests, by client. Clients have no weight: their failures are in the last window.
    """
    if is_reset(cursor, values):
        forgotten = {key: 0 for key in cursor if key.startswith(_COUNTERS) and key not in values}
        windows, changed = windows_since({}, values, query, shares)
        return windows, {**forgotten, **changed}
    changed = {key: value for key, value in values.items() if value != cursor.get(key, 0)}
    totals, failures = Totals(OutcomeCounts), dict[str, ClientCounts]()
    for key, value in changed.items():
        count = max(0, value - cursor.get(key, 0))
        if key.startswith(FAILURE):
            _, version, answer, client = key.split("|", 3)
            more = _answer(answer, "").counts(count, query.count_4xx)
            if more.requests:
                failures[client] = query.of_client(
                    failures.get(client, ClientCounts(shares.get(client, 0.0))), version, more
                )
            continue
        kind, version, weight, *rest = key.split("|", 4)
        totals[query.canary_weight(version, int(weight)), version] += _counts(kind, rest, count, query)
    windows = [
        Window(weight, totals[weight, query.stable], totals[weight, query.canary])
        for weight in sorted({weight for weight, _ in totals})
    ]
    if failures and windows:
        windows[-1] = replace(windows[-1], clients=failures)
    return windows, changed


def _counts(kind: str, rest: list[str], count: int, query: EvidenceQuery) -> OutcomeCounts:
    if f"{kind}|" == SLOW:
        return OutcomeCounts(slow=count)
    if f"{kind}|" == TIMED:
        return OutcomeCounts(timed=count)
    return _answer(*rest).counts(count, query.count_4xx)


def _answer(text: str, predicted: str) -> Answer:
    status, *others = text.split(";")
    return Answer(status, "" if predicted == "-" else predicted, **dict(zip(_OF_ANSWER, others, strict=False)))


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
