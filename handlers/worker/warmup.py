"""Warms a worker over its batch sizes until the latency settles; time comes in as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: Runs in a row that must not beat the best so far by more than SETTLED_BY for a batch size to count as settled.
SETTLED_RUNS = 3
SETTLED_BY = 0.05
MAX_RUNS = 50


@dataclass(frozen=True)
class BatchTiming:
    """Time of one batch size: the first run and the best run, in seconds."""

    batch: int
    cold_s: float
    warm_s: float
    runs: int
    is_settled: bool  # False: the time budget ended first

    def fact(self) -> dict[str, Any]:
        """The timing in the load report."""
        return {
            "batch": self.batch,
            "cold_ms": round(self.cold_s * 1000, 3),
            "warm_ms": round(self.warm_s * 1000, 3),
            "runs": self.runs,
            "settled": self.is_settled,
        }


def warm_up(
    run: Callable[[int], None], sizes: Iterable[int], budget_s: float, clock: Callable[[], float]
) -> list[BatchTiming]:
    """Run every batch size until its latency settles or the budget ends; each size runs at least once.

    Args:
        run: answers one batch of the given size; its errors are raised here.
        sizes: batch sizes in the order to warm them.
        budget_s: seconds for all sizes together.
        clock: monotonic seconds.
    """
    end = clock() + budget_s
    return [_settle(run, size, end, clock) for size in sizes]


def _settle(run: Callable[[int], None], size: int, end: float, clock: Callable[[], float]) -> BatchTiming:
    cold = best = _timed(run, size, clock)
    runs, quiet = 1, 0
    while quiet < SETTLED_RUNS and runs < MAX_RUNS and clock() < end:
        took = _timed(run, size, clock)
        runs += 1
        quiet = 0 if took < best * (1 - SETTLED_BY) else quiet + 1
        best = min(best, took)
    return BatchTiming(size, cold, best, runs, is_settled=quiet >= SETTLED_RUNS)


def _timed(run: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    begin = clock()
    run(size)
    return clock() - begin
