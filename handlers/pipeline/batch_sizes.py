"""Batch sizes that a worker warms, and the one that a batch of a compiled model is filled up to. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def batch_sizes(maximum: int) -> list[int]:
    """1, 2, 4, ... and `maximum` itself."""
    sizes = []
    size = 1
    while size < maximum:
        sizes.append(size)
        size *= 2
    return [*sizes, maximum]


def padded_size(count: int, warmed: Sequence[int]) -> int:
    """The smallest warmed batch size that holds `count` items; `count` itself where none does.

    Args:
        warmed: batch sizes in rising order.
    """
    place = bisect_left(warmed, count)
    return warmed[place] if place < len(warmed) else count
