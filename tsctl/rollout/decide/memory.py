"""Whether a worker's memory has grown too much. Pure."""

from __future__ import annotations

from collections.abc import Mapping

#: Growth of a worker's memory below this many bytes is no leak: allocators keep memory that they once had.
LEAST_GROWTH = 256 << 20


def memory_fault(warm: Mapping[str, int], now: Mapping[str, int], most: float) -> str:
    """Why a worker has too much memory; empty where none has. Memory has a limit: one process is no sample of requests.

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
