"""Measures at warm-up how long micro-batches take on this device, so that batches are cut in the fastest way here.

Nothing is kept between starts: the next start may have other cores, neighbours or libraries.
"""

from __future__ import annotations

from collections.abc import Callable

from handlers.batching import Costs
from handlers.errors import LoadError

#: Padded tokens of the micro-batches that are tried, in this order.
SIZES = tuple(1 << power for power in range(4, 15))
#: A larger micro-batch whose tokens take so many times as long as the fastest ones ends the trial of larger ones.
SLOWER = 1.25
#: The budget is the smallest size whose tokens take no more than this many times as long as the fastest ones.
AS_FAST = 1.03
#: The budget where the time was over before a larger micro-batch was slower.
LEAST_UNKNOWN = 256
#: Seconds of all measurements together, and how often each size is measured at most.
TUNING_S = 2.0
MOST_ROUNDS = 8


def measure_costs(
    probe: Callable[[int], int], budget_s: float, clock: Callable[[], float], timer: Callable[[], float]
) -> Costs:
    """The time of micro-batches by their tokens, up to the size beyond which none is faster.

    The two smallest micro-batches are always measured, whatever the budget. Where the time is over while larger ones
    are still faster, as beside other work that takes the cores, the budget is LEAST_UNKNOWN at least.

    Args:
        probe: runs one micro-batch of about so many tokens to its end, and returns how many it had. One input may have
            more than it was asked for, so different sizes may be one micro-batch, and it may be the only one.
        budget_s: seconds for all of it.
        clock: monotonic seconds.
        timer: seconds of what is measured: of the clock, or of a processor, which other work does not take.

    Raises:
        LoadError: the probe says that it ran no tokens.
    """
    end = clock() + budget_s
    best: dict[int, float] = {}

    def measure(size: int) -> None:
        begin = timer()
        tokens = probe(size)
        took = max(timer() - begin, 1e-9)
        best[tokens] = min(took, best.get(tokens, took))

    sizes: list[int] = []
    largest = 0  # tokens of a micro-batch that ran
    for size in SIZES:
        if len(best) >= 2 and clock() >= end:
            break
        if size <= largest:
            continue
        largest = tokens = probe(size)  # the first run of a shape prepares it
        if tokens < 1:
            raise LoadError(f"probe ran a micro-batch of about {size} tokens, and returned {tokens} as their number")
        if tokens in best:
            continue
        measure(size)
        sizes.append(size)
        fastest = min(seconds / tokens for tokens, seconds in best.items())
        if len(best) >= 2 and best[tokens] / tokens > SLOWER * fastest:
            break
    for _ in range(MOST_ROUNDS - 1):
        for size in sizes:
            if clock() >= end:
                return _costs(best)
            measure(size)
    return _costs(best)


def _costs(best: dict[int, float]) -> Costs:
    """The measured points up to the budget, two at least if there are two; no larger micro-batch is faster than a
    smaller one."""
    points = sorted(best.items())
    fastest = min(seconds / tokens for tokens, seconds in points)
    enough = next(i for i, (tokens, seconds) in enumerate(points) if seconds / tokens <= AS_FAST * fastest)
    kept = points[: max(2, enough + 1)]
    is_known = enough < len(points) - 1 or points[-1][0] > SIZES[-1] // 2
    budget = points[enough][0] if is_known else max(LEAST_UNKNOWN, points[enough][0])
    for i in range(len(kept) - 2, -1, -1):
        kept[i] = (kept[i][0], min(kept[i][1], kept[i + 1][1]))
    return Costs(tuple(kept), budget)
