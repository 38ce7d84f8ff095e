"""Whether the canary's workers can carry a share of the requests, and whether their memory grows without end. Pure.

Memory has a limit and no statistics: the memory of one process is no sample of requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from tsctl.config.weights import TOTAL

#: Growth below this many bytes is no leak: allocators keep memory that they once had.
LEAST_GROWTH = 256 << 20


def requests_per_s(batches_s: Sequence[float], batch: int, workers: int) -> float:
    """Requests per second that workers can answer, all together.

    Args:
        batches_s: durations of some full batches on one worker, from the first byte sent to the last answer.
        batch: requests in each of them.
    """
    return workers * batch / median(batches_s)


def utilisation(rate: float, weight: int, capacity: float) -> float:
    """The share of their time for which the canary's workers would be busy.

    The utilisation law: requests per second times the seconds of one request, over the workers.

    Args:
        rate: requests per second of the whole route.
        weight: of the canary, in hundredths of a percent.
        capacity: requests per second that the canary can answer; above 0.
    """
    return rate * weight / TOTAL / capacity


def memory_fault(warm: Mapping[str, int], now: Mapping[str, int], most: float) -> str:
    """Why a worker has too much memory; empty where none has.

    Args:
        warm: bytes of each worker when it was warm; a later worker is compared with the smallest of them.
        now: bytes of each worker.
        most: how many times its warm memory a worker may have.
    """
    known = [size for size in warm.values() if size > 0]
    for worker, size in now.items():
        before = warm.get(worker) or min(known, default=0)
        if before and size > most * before and size - before > LEAST_GROWTH:
            return (
                f"worker {worker} has {size >> 20:,} MiB, {size / before:.1f} times as much as when it was warm,"
                f" and the policy allows {most:g} times"
            )
    return ""
