"""Turns the gateway's counters into windows of evidence. Pure.

A cursor holds the last value of every series, so that reading goes on where it stopped, in whatever process. A counter
that fell was reset by a restart of Envoy, and counts from zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

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

#: Begins the keys of a cursor that count requests.
REQUEST = "r|"
#: Begins those that count slow answers, and those that count answers with a time.
SLOW, TIMED = "s|", "t|"
#: Begins those that count failures of a client.
FAILURE = "e|"
_COUNTERS = (REQUEST, SLOW, TIMED, FAILURE)
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
