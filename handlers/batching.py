"""Cuts a batch of inputs of different lengths into parts for the model. Pure: lengths in, indices out."""

from __future__ import annotations

from collections.abc import Sequence


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
