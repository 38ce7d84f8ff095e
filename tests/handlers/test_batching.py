"""How a batch is cut: every input once, no padding beyond what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import ServingHandler
from handlers.batching import Costs, cheapest_parts, micro_batches
from handlers.errors import LoadError, PayloadTooLarge
from handlers.messages import Request
from handlers.pipeline.batch_sizes import batch_sizes, padded_size
from handlers.schema import Schema
from handlers.worker.startup import _tune
from handlers.worker.tuning import LEAST_UNKNOWN, SIZES, measure_costs


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


# ---- the cut that takes the least time -------------------------------------------------------------------------------


def linear(call_s: float, token_s: float, budget: int = 10_000) -> Costs:
    return Costs(((16, call_s + 16 * token_s), (32, call_s + 32 * token_s)), budget)


def time_of(parts: list[list[int]], lengths: list[int], costs: Costs) -> float:
    return sum(costs.seconds(lengths[part[0]] * len(part)) for part in parts)


def all_cuts(count: int) -> list[list[int]]:
    """Every way to cut `count` inputs into parts, as the parts' sizes."""
    if not count:
        return [[]]
    return [[size, *rest] for size in range(1, count + 1) for rest in all_cuts(count - size)]


@given(st.lists(st.integers(1, 128), max_size=8), st.floats(0, 50), st.integers(1, 600))
def test_the_cheapest_parts_are_no_slower_than_any_cut_of_the_sorted_inputs(
    lengths: list[int], call: float, budget: int
) -> None:
    costs = linear(call, 1.0, budget)
    parts = cheapest_parts(lengths, costs)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or lengths[part[0]] * len(part) <= budget for part in parts)
    assert all(lengths[part[0]] == max(lengths[i] for i in part) for part in parts)
    order = [index for part in parts for index in part]
    for sizes in all_cuts(len(lengths)):
        ends = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        cut = [order[a:b] for a, b in pairwise(ends)]
        if all(len(part) == 1 or lengths[part[0]] * len(part) <= budget for part in cut):
            assert time_of(parts, lengths, costs) <= time_of(cut, lengths, costs) + 1e-9


def test_dear_calls_join_inputs_and_free_calls_part_them() -> None:
    lengths = [10, 9, 100, 10]
    assert cheapest_parts(lengths, linear(1000, 1)) == [[2, 0, 3, 1]]
    assert cheapest_parts(lengths, linear(20, 1)) == [[2], [0, 3, 1]]
    assert [2] in cheapest_parts(lengths, linear(0, 1))


class Device:
    """A device whose time for a micro-batch is known, and which is the clock."""

    def __init__(self, seconds: Callable[[int], float], first_s: float = 0.0) -> None:
        self.now, self._seconds, self._first_s = 0.0, seconds, first_s
        self.ran: list[int] = []
        self.lost_s = 0.0  # to other work, by the clock

    def probe(self, tokens: int) -> int:
        self.now += self._seconds(tokens) + (self._first_s if tokens not in self.ran else 0)
        self.ran.append(tokens)
        self.lost_s += 0.01 * len(self.ran)
        return tokens

    def measured(self, budget_s: float) -> Costs:
        return measure_costs(self.probe, budget_s, lambda: self.now + self.lost_s, lambda: self.now)


def test_the_budget_is_the_size_beyond_which_tokens_are_no_faster() -> None:
    fits_in_cache = Device(lambda tokens: 0.005 + 0.0003 * tokens + 0.001 * max(0, tokens - 512), first_s=1.0)
    costs = fits_in_cache.measured(60)
    assert costs.budget == 512
    assert costs.seconds(512) == pytest.approx(0.005 + 0.0003 * 512), "the first run of a shape does not count"
    assert max(fits_in_cache.ran) < SIZES[-1], "much larger ones are not tried"


def test_a_device_that_gains_from_every_size_gets_the_largest() -> None:
    assert Device(lambda tokens: 0.01 + 0.000001 * tokens).measured(60).budget == SIZES[-1]


def test_where_the_time_is_over_soon_the_budget_is_not_that_of_the_smallest_sizes() -> None:
    slow = Device(lambda tokens: 0.5 + 0.0001 * tokens)
    costs = slow.measured(0.6)
    assert costs.budget == LEAST_UNKNOWN
    assert slow.now + slow.lost_s < 0.6 + 4 * 0.6
    assert len(costs.points) == 2


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=200), st.floats(0, 20))
def test_whatever_the_noise_costs_rise_and_end_near_their_time(times: list[float], budget_s: float) -> None:
    noisy = Device(lambda tokens: times[(tokens + len(noisy.ran)) % len(times)])
    costs = noisy.measured(budget_s)
    seconds = [took for _, took in costs.points]
    assert len(seconds) >= 2 and seconds == sorted(seconds)
    assert costs.budget in SIZES
    assert noisy.now <= budget_s + 4 * max(times) + 1e-6


@pytest.mark.parametrize(
    ("ran", "points"),
    [
        (lambda tokens: 10_000 * max(1, tokens // 10_000), 1),  # one input is longer than nearly all sizes
        (lambda tokens: 128, 1),  # the author's probe runs one micro-batch, whatever is asked
        (lambda tokens: min(tokens, 256), 2),
        (lambda tokens: 100 * max(1, tokens // 100), 2),
    ],
)
def test_a_probe_may_run_the_same_micro_batch_for_several_sizes(ran: Callable[[int], int], points: int) -> None:
    device = Device(lambda tokens: 0.000001 * ran(tokens))
    costs = measure_costs(lambda tokens: ran(device.probe(tokens)), 60, lambda: device.now, lambda: device.now)
    assert len(costs.points) == points
    assert cheapest_parts([5, 7, 10_000], costs) in ([[2, 1, 0]], [[2], [1, 0]], [[2], [1], [0]])
    assert costs.seconds(300) == pytest.approx(0.0003, rel=0.01), "in proportion to the tokens"


@pytest.mark.parametrize("ran", [0, -1])
def test_a_probe_that_ran_no_tokens_is_the_authors_mistake(ran: int) -> None:
    with pytest.raises(LoadError, match=f"about 16 tokens, and returned {ran} as their number"):
        measure_costs(lambda tokens: ran, 60, lambda: 0.0, lambda: 0.0)


class Rejecting(ServingHandler):
    """Rejects every item, and cuts batches by length."""

    Request = Schema

    def prepare(self, items: list[Any]) -> list[Any]:
        return [PayloadTooLarge("too many tokens") for _ in items]

    def probe(self, prepared: list[Any], tokens: int) -> int:
        return len(prepared[0])


def test_without_a_sample_that_prepare_takes_nothing_can_be_measured() -> None:
    worker: Any = SimpleNamespace(handler=Rejecting())
    sample: Any = SimpleNamespace(request=Request(b"{}", "application/json"))
    with pytest.raises(LoadError, match=r"prepare rejects every sample: too many tokens; give batch\.tokens"):
        _tune(worker, [sample])
