"""Turns the counters of workers into windows of evidence, where no gateway of tsctl counts answers. Pure.

A worker counts the items that it answered. Of requests that reached no worker, and of those that a worker took with it
when it died, it knows nothing: a worker that started again in a pod counts as one failed request, at least one of which
there was. A series is one pod's, and one that fell began anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from handlers.contract import ANSWERED_ITEMS, BATCH_SECONDS, CACHE_ITEMS, WORKER_STARTS
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.evidence.totals import Durations

#: The series that are read.
BUCKETS, BATCHES = f"{BATCH_SECONDS}_bucket", f"{BATCH_SECONDS}_count"
SERIES = (ANSWERED_ITEMS, CACHE_ITEMS, WORKER_STARTS, BUCKETS, BATCHES)
#: Outcomes of items that are their client's mistakes, by the kinds of `handlers.errors`.
CLIENTS_MISTAKES = frozenset(
    (
        "does-not-fit-schema", "not-implemented", "payload-too-large", "undecodable-body", "unreadable-header",
        "unsupported-media-type",
    )
)  # fmt: skip
#: Outcomes that say nothing of a version: the item's time was over before a worker could take it.
NO_EVIDENCE = frozenset(("deadline-passed",))
OK, HIT = "ok", "hit"


@dataclass(frozen=True)
class PodSample:
    """One series of one pod, and its value now."""

    name: str  # one of SERIES
    version: str
    pod: str
    value: int
    label: str = ""  # the outcome, the result, or the upper edge in seconds


def values_of(samples: Iterable[PodSample], versions: Iterable[str], slow_ms: float | None) -> dict[str, int]:
    """The values that evidence needs, by the keys of a cursor: `kind|version|pod|label`."""
    chosen = set(versions)
    kept = (one for one in samples if one.version in chosen and (one.name != BUCKETS or _is_edge(one, slow_ms)))
    return {f"{_KINDS[one.name]}|{one.version}|{one.pod}|{one.label}": one.value for one in kept}


def window_since(
    cursor: Cursor, values: Mapping[str, int], weight: int, stable: str, canary: str, count_4xx: bool
) -> tuple[list[Window], dict[str, int]]:
    """What was counted since the cursor, at one weight of the canary, and the changes of the cursor."""
    changed = {key: value for key, value in values.items() if value != cursor.get(key)}
    counts = {stable: OutcomeCounts(), canary: OutcomeCounts()}
    for key, value in changed.items():
        kind, version, _, label = key.split("|", 3)
        before = cursor.get(key, 0)
        if kind == _KINDS[WORKER_STARTS] and key not in cursor:
            continue  # a pod's first workers are no restarts
        more = value - before if value >= before else value
        counts[version] += _counts(kind, label, more, count_4xx)
    slow = {version: counts[version].timed - counts[version].slow for version in counts}  # those that were not faster
    counts = {
        version: OutcomeCounts(
            requests=one.requests,
            errors=one.errors,
            refused=one.refused,
            cached=one.cached,
            timed=one.timed,
            slow=max(0, slow[version]) if _has_threshold(values, version) else 0,
        )
        for version, one in counts.items()
    }
    window = Window(weight, counts[stable], counts[canary])
    return ([window] if any(one != OutcomeCounts() for one in counts.values()) else []), changed


def durations_of(samples: Iterable[PodSample], version: str) -> Durations:
    """Batches of a version that took less than each edge, in milliseconds; all of them under `inf`."""
    durations: Durations = Counter()
    for one in samples:
        if one.version == version and one.name == BATCHES:
            durations[inf] += one.value
        elif one.version == version and one.name == BUCKETS and float(one.label) < inf:
            durations[edge_ms(one.label)] += one.value
    return durations


def edge_ms(label: str) -> float:
    """The upper edge of a bucket in milliseconds, as a number that is the same each time."""
    return round(float(label) * 1000, 6)


def items_of(samples: Iterable[PodSample]) -> int:
    """Items that were answered, of all versions."""
    return sum(one.value for one in samples if one.name == ANSWERED_ITEMS)


_KINDS = {ANSWERED_ITEMS: "wi", CACHE_ITEMS: "wc", WORKER_STARTS: "ws", BUCKETS: "wf", BATCHES: "wt"}


def _is_edge(sample: PodSample, slow_ms: float | None) -> bool:
    return slow_ms is not None and edge_ms(sample.label) == slow_ms


def _has_threshold(values: Mapping[str, int], version: str) -> bool:
    return any(key.startswith(f"{_KINDS[BUCKETS]}|{version}|") for key in values)


def _counts(kind: str, label: str, count: int, count_4xx: bool) -> OutcomeCounts:
    """Counts of one series; batches that were faster than the threshold are in `slow`, until they are taken off."""
    match kind:
        case "wi" if label in NO_EVIDENCE:
            return OutcomeCounts()
        case "wi" if label in CLIENTS_MISTAKES:
            return OutcomeCounts(requests=count, refused=count, errors=count if count_4xx else 0)
        case "wi":
            return OutcomeCounts(requests=count, errors=0 if label == OK else count)
        case "ws":
            return OutcomeCounts(requests=count, errors=count)
        case "wc":
            return OutcomeCounts(cached=count if label == HIT else 0)
        case "wt":
            return OutcomeCounts(timed=count)
        case _:
            return OutcomeCounts(slow=count)
