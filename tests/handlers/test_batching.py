"""How a batch is cut: every input once, no padding beyond what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.batching import micro_batches
from handlers.pipeline.batch_sizes import batch_sizes, padded_size


@given(st.lists(st.integers(1, 512), max_size=64), st.integers(1, 4096), st.floats(0, 1))
def test_every_input_comes_once_within_budget_and_beside_inputs_of_its_length(
    lengths: list[int], budget: int, least_full: float
) -> None:
    parts = micro_batches(lengths, budget, least_full)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        longest = lengths[part[0]]
        assert longest == max(lengths[index] for index in part)
        assert len(part) == 1 or longest * len(part) <= budget
        assert all(lengths[index] >= least_full * longest for index in part)


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 100, []),
        ([7], 1, [[0]]),
        ([10, 100, 10, 100], 200, [[1, 3], [0, 2]]),
        ([10, 10, 10], 20, [[0, 1], [2]]),
        ([10, 4, 10], 1000, [[0, 2], [1]]),
    ],
)
def test_micro_batches(lengths: list[int], budget: int, expected: list[list[int]]) -> None:
    assert micro_batches(lengths, budget) == expected


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 12), (12, 12), (13, 13)])
def test_a_batch_is_padded_to_the_next_size_that_was_warmed(count: int, size: int) -> None:
    assert padded_size(count, batch_sizes(12)) == size


def test_without_warmed_sizes_nothing_is_padded() -> None:
    assert padded_size(5, []) == 5
