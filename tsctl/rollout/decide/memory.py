"""Whether a worker of the canary grows without end. Pure.

A limit and no statistics: memory of one process is no sample of requests, and alpha does not speak of it.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Growth below this many bytes is nobody's leak: allocators keep what they once had.
LEAST_GROWTH = 256 << 20


def grown(warm: Mapping[str, int], now: Mapping[str, int], most: float) -> str:
    """Why a worker has too much memory; empty where none has.

    Args:
        warm: bytes of each worker when it was warm; one that came later is held against the smallest of them.
        now: bytes of each worker.
        most: how many times as much as when it was warm a worker may have.
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
