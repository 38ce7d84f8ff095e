"""Reads a model's recent traffic from the gateway's access log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import ceil
from pathlib import Path

from tsctl.gateway.access_log import CHUNK_BYTES, AccessLogEntry, newest_chunks, parse_entry
from tsctl.gateway.traffic import STABLE
from tsctl.rollout.decide.evidence import OTHER
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.rollout.evidence.log_answers import answer_of, computed_ms, is_slow
from tsctl.rollout.evidence.totals import MOST_CLASSES
from tsctl.rollout.forecast.forecast import RecentTraffic

#: Of the log, for one forecast; some 200,000 requests.
MOST_BYTES = 100 << 20
#: With this many requests, the first one marks the begin of the log.
MANY = 100


def read_recent(
    log: Path, model: str, since: float, most_bytes: int = MOST_BYTES, chunk_bytes: int = CHUNK_BYTES
) -> list[AccessLogEntry]:
    """Read the model's requests since then, in the order in which they ended; the newest ones if there are too many.

    Args:
        log: the gateway's access log, which may be missing; its rotated files are read as well.
        since: seconds since 1970.
        most_bytes: are read, and the rest of the last chunk.

    Raises:
        AnalysisError: a log exists and cannot be read.
    """
    chunks: list[list[AccessLogEntry]] = []
    for lines in newest_chunks(log, most_bytes, chunk_bytes):
        entries = [entry for line in lines if (entry := parse_entry(line)) is not None]
        if entries and all(entry.at < since for entry in entries):
            break
        chunks.append([entry for entry in entries if entry.model == model and entry.at >= since])
    return list(chain.from_iterable(reversed(chunks)))


def recent_traffic(
    entries: Sequence[AccessLogEntry], since: float, now: float, count_4xx: bool, slow_quantile: float
) -> RecentTraffic:
    """Sum up the requests that a rollout would divide, and the rates of stable.

    Requests whose clients chose the version are left out. An answer is slow if it takes at least as long as the
    quantile of stable's, so equal durations are slow together.

    Args:
        entries: of one model, from `since` to `now`, the oldest first.
    """
    begin = since if len(entries) < MANY else max(since, entries[0].at)  # the log may begin later
    seconds = max(now - begin, 1.0)
    routed = [entry for entry in entries if entry.version is not None and entry.is_by_weight]
    stable = [entry for entry in routed if entry.track == STABLE]
    slow_ms = duration_quantile(stable, slow_quantile)
    counted = sum((answer_of(entry).counts(1, count_4xx) for entry in stable), OutcomeCounts())
    slow = sum(is_slow(entry, slow_ms) for entry in stable)
    return RecentTraffic(
        requests_per_s=len(routed) / seconds,
        error_rate=(counted.errors + counted.unanswered) / (counted.requests or 1),
        slow_share=slow / (counted.computed or 1),
        since_s=seconds,
        requests=len(routed),
        class_share=_class_share(counted.classes),
    )


def _class_share(classes: Mapping[str, int]) -> float | None:
    """The share of the predictions that are of one of the MOST_CLASSES classes; None without predictions."""
    total = sum(classes.values())
    named = sorted((count for name, count in classes.items() if name != OTHER), reverse=True)
    return sum(named[:MOST_CLASSES]) / total if total else None


def duration_quantile(entries: Sequence[AccessLogEntry], share: float) -> float | None:
    """Compute the milliseconds that at least this share of the requests stayed within; None without requests."""
    durations = sorted(waited_ms for entry in entries if (waited_ms := computed_ms(entry)) is not None)
    return durations[ceil(share * len(durations)) - 1] if durations else None
