"""Cuts a batch of inputs of different lengths into parts for the model. Pure: lengths in, indices out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


def micro_batches(lengths: Sequence[int], budget: int, least_full: float = 0.5) -> list[list[int]]:
    """Indices of inputs that go through the model together, longest first; every index once.

    A micro-batch padded to its longest input holds at most `budget` tokens, unless it is a single input, and no input
    of it is shorter than `least_full` times the longest: a short input does not pay for a long one.

    Args:
        lengths: tokens of each input.
        budget: padded tokens in one micro-batch.
        least_full: 0 to 1; higher means less padding and smaller micro-batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    longest = 0
    for index in order:
        fits = parts and longest * (len(parts[-1]) + 1) <= budget and lengths[index] >= least_full * longest
        if not fits:
            parts.append([])
            longest = lengths[index]
        parts[-1].append(index)
    return parts


@dataclass(frozen=True)
class Costs:
    """Time of a micro-batch by its padded tokens, as measured on this device.

    Args:
        points: tokens and seconds, both rising, at least one; in between and beyond them the time is linear, and with
            one alone it is proportional to the tokens.
        budget: the most tokens in one micro-batch, unless it is a single input.
    """

    points: tuple[tuple[int, float], ...]
    budget: int

    def seconds(self, tokens: int) -> float:
        """The time of one micro-batch."""
        points = self.points if len(self.points) > 1 else ((0, 0.0), *self.points)
        upper = min(max(1, bisect_left(points, (tokens, 0.0))), len(points) - 1)
        (x0, y0), (x1, y1) = points[upper - 1], points[upper]
        return max(0.0, y0 + (y1 - y0) * (tokens - x0) / (x1 - x0))


def cheapest_parts(lengths: Sequence[int], costs: Costs) -> list[list[int]]:
    """Indices of inputs that go through the model together, longest first, every index once, in the least time.

    Each call has a price of its own and each padded token too, so short inputs join longer ones where a call of their
    own costs more than their padding. Parts of the sorted inputs are enough: exchanging two inputs between parts only
    adds padding.

    Args:
        lengths: tokens of each input.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    seconds = lru_cache(None)(costs.seconds)
    least = [0.0] + [float("inf")] * len(order)  # of the first inputs, by their number
    begins = [0] * (len(order) + 1)  # of the last part of the first inputs
    for begin, index in enumerate(order):
        longest = lengths[index]
        most = max(1, costs.budget // max(1, longest))
        for count in range(1, min(most, len(order) - begin) + 1):
            total = least[begin] + seconds(longest * count)
            if total < least[begin + count]:
                least[begin + count], begins[begin + count] = total, begin
    parts = []
    end = len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = begins[end]
    return parts[::-1]
