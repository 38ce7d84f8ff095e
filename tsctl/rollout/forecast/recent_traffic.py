"""What the gateway's access log says of a model's last minutes.

Invariant: the newest lines are read first, and never more than a given number of bytes, however large the log is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from math import ceil
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.gateway.envoy.render import BY_WEIGHT
from tsctl.gateway.traffic import STABLE
from tsctl.rollout.evidence.counts import is_error
from tsctl.rollout.forecast.forecast import RecentTraffic

#: Of the log, for one question; some 200,000 requests.
MOST_BYTES = 100 << 20
CHUNK_BYTES = 1 << 20
#: With so many requests, the first one tells when the log begins.
MANY = 100
#: What Envoy writes where there is nothing to tell.
NOTHING = (None, "", "-")
TEXTS = ("model", "version", "track", "by", "weight", "class")


@dataclass(frozen=True)
class Record:
    """One request.

    Args:
        at: seconds since 1970, when it came.
        model: None where no route was found for it.
        version: that answered; None where the gateway answered itself.
        track: that the version played, stable or canary; None where it played none.
        is_by_weight: whether chance chose the version, and not the client.
        weight: of the version when it was routed, in hundredths of a percent.
        predicted: the class that the handler told; None where it tells none.
        status: 0 where the client left before the answer.
    """

    at: float
    model: str | None
    version: str | None
    track: str | None
    is_by_weight: bool
    weight: int
    predicted: str | None
    status: int
    duration_ms: float


def tail(
    log: Path, model: str, since: float, most_bytes: int = MOST_BYTES, chunk_bytes: int = CHUNK_BYTES
) -> list[Record]:
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
    chunks: list[list[Record]] = []
    try:
        for lines in _chunks(log, most_bytes, chunk_bytes):
            records = [record for line in lines if (record := _record(line)) is not None]
            if records and all(record.at < since for record in records):
                break
            chunks.append([record for record in records if record.model == model and record.at >= since])
    except OSError as error:
        raise AnalysisError(f"{log} cannot be read: {error}") from error
    return list(chain.from_iterable(reversed(chunks)))


def traffic(
    records: Sequence[Record], since: float, now: float, count_4xx: bool, slow_quantile: float
) -> RecentTraffic:
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
    return RecentTraffic(
        requests_per_s=len(routed) / seconds,
        error_rate=errors / len(stable) if stable else 0.0,
        slow_share=slow / len(stable) if stable else 0.0,
        since_s=seconds,
        requests=len(routed),
    )


def duration_quantile(records: Sequence[Record], share: float) -> float | None:
    """Milliseconds that at least this share of the requests stayed within; None without requests."""
    durations = sorted(record.duration_ms for record in records)
    return durations[ceil(share * len(durations)) - 1] if durations else None


def _chunks(log: Path, most_bytes: int, chunk_bytes: int) -> Iterator[list[bytes]]:
    """Lines of the log and of those before it, in chunks, the newest chunk first."""
    read: set[int] = set()
    left = most_bytes
    numbered = (log.with_name(f"{log.name}.{number}") for number in count(1))
    for path in chain([log], numbered):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if path == log:  # it was renamed just now, and Envoy has not begun the next one
                continue
            return
        try:
            stat = os.fstat(descriptor)
            if stat.st_ino in read:  # the one that was read already has got the next number meanwhile
                continue
            read.add(stat.st_ino)
            yield from _backwards(descriptor, stat.st_size, left, chunk_bytes)
            left -= stat.st_size
        finally:
            os.close(descriptor)
        if left <= 0:
            return


def _backwards(descriptor: int, end: int, most_bytes: int, chunk_bytes: int) -> Iterator[list[bytes]]:
    """Whole lines of a file's last bytes, in chunks, the last chunk first."""
    least = max(0, end - most_bytes)
    begun: bytes | None = None  # what of a line was read; its start lies further up
    while end > least:
        start = max(0, end - chunk_bytes)
        lines = (os.pread(descriptor, end - start, start) + (begun or b"")).split(b"\n")
        if begun is None:
            lines.pop()  # nothing, or the start of a line that is still being written
        begun = lines.pop(0) if start and lines else b""
        end = start
        yield lines


def _record(line: bytes) -> Record | None:
    """None where it is not a whole line of the access log."""
    try:
        told = json.loads(line)
        named = {key: None if told[key] in NOTHING else str(told[key]) for key in TEXTS}
        return Record(
            at=datetime.fromisoformat(told["time"]).timestamp(),
            model=named["model"],
            version=named["version"],
            track=named["track"],
            is_by_weight=named["by"] == BY_WEIGHT,
            weight=int(named["weight"] or 0),
            predicted=named["class"],
            status=int(told["status"]),
            duration_ms=float(told["duration_ms"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
