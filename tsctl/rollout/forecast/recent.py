"""What the gateway's access log says of a model's last minutes.

Invariant: the newest lines are read first, and never more than a given number of bytes, however large the log is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import ceil
from pathlib import Path

from tsctl.gateway.access_log import CHUNK_BYTES, AccessLogEntry, newest_chunks, parse_entry
from tsctl.gateway.traffic import STABLE
from tsctl.rollout.evidence.counts import is_error
from tsctl.rollout.forecast.forecast import Traffic

#: Of the log, for one question; some 200,000 requests.
MOST_BYTES = 100 << 20
#: With so many requests, the first one tells when the log begins.
MANY = 100


def tail(
    log: Path, model: str, since: float, most_bytes: int = MOST_BYTES, chunk_bytes: int = CHUNK_BYTES
) -> list[AccessLogEntry]:
    """The model's requests since then, in the order in which they ended; the newest ones where there are too many.

    A line that a crash has cut is passed over, and so is one that is still being written.

    Args:
        log: the gateway's access log, which may be missing; the logs before it have the same name and .1, .2 and so on.
        since: seconds since 1970.
        most_bytes: are read, and what is left of a chunk then.
        chunk_bytes: are read at a time.

    Raises:
        AnalysisError: a log is there and cannot be read.
    """
    chunks: list[list[AccessLogEntry]] = []
    for lines in newest_chunks(log, most_bytes, chunk_bytes):
        records = [record for line in lines if (record := parse_entry(line)) is not None]
        if records and all(record.at < since for record in records):
            break
        chunks.append([record for record in records if record.model == model and record.at >= since])
    return list(chain.from_iterable(reversed(chunks)))


def traffic(
    records: Sequence[AccessLogEntry], since: float, now: float, count_4xx: bool, slow_quantile: float
) -> Traffic:
    """What a rollout would be fed with, were the next minutes like these.

    Requests whose clients chose the version are left out: a rollout does not divide them. Errors and slow answers are
    those of stable; slow is what takes as long as its own quantile, so that equal durations are slow together.

    Args:
        records: of one model, from `since` to `now`, the oldest first.
    """
    begin = since if len(records) < MANY else max(since, records[0].at)  # the log may begin later
    seconds = max(now - begin, 1.0)
    routed = [record for record in records if record.version is not None and record.is_by_weight]
    stable = [record for record in routed if record.track == STABLE]
    errors = sum(is_error(str(record.status), count_4xx) for record in stable)
    slow_ms = duration_quantile(stable, slow_quantile)
    slow = sum(record.duration_ms >= slow_ms for record in stable) if slow_ms is not None else 0
    return Traffic(
        requests_per_s=len(routed) / seconds,
        error_rate=errors / len(stable) if stable else 0.0,
        slow_share=slow / len(stable) if stable else 0.0,
        since_s=seconds,
        requests=len(routed),
    )


def duration_quantile(records: Sequence[AccessLogEntry], share: float) -> float | None:
    """Milliseconds that at least this share of the requests stayed within; None without requests."""
    durations = sorted(record.duration_ms for record in records)
    return durations[ceil(share * len(durations)) - 1] if durations else None
