"""What a release is judged by: false alarms stay below alpha however often one looks, and faults are found."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.statistics.sequential import BOTH_WAYS, RateProcess, RatioProcess, log_mean, rate_bounds, rejects

ALPHA = 0.05
WEIGHTS = st.floats(0.01, 0.99)


def factor(ratio: float, on_canary: bool, weight: float) -> float:
    return (ratio if on_canary else 1) / (1 - weight + weight * ratio)


@given(WEIGHTS, st.sampled_from(BOTH_WAYS))
def test_one_event_is_a_fair_bet_where_both_versions_are_alike(weight: float, ratio: float) -> None:
    won, lost = (RatioProcess((ratio,)).seen(*counts, weight).log_e for counts in ((1, 0), (0, 1)))
    assert math.isclose(math.exp(won), factor(ratio, True, weight))
    assert math.isclose(weight * math.exp(won) + (1 - weight) * math.exp(lost), 1.0)


@given(WEIGHTS, st.floats(0, 1))
def test_a_canary_that_is_better_wins_no_bet_against_itself(weight: float, share: float) -> None:
    chance = weight * share  # events belong to the canary less often than its weight
    won, lost = (math.exp(RatioProcess().seen(*counts, weight).log_e) for counts in ((1, 0), (0, 1)))
    assert chance * won + (1 - chance) * lost <= 1 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), WEIGHTS), max_size=10))
def test_events_may_come_one_by_one_or_together(parts: list[tuple[int, int, float]]) -> None:
    together = one_by_one = RatioProcess()
    for on_canary, elsewhere, weight in parts:
        together = together.seen(on_canary, elsewhere, weight)
        for counts in [(1, 0)] * on_canary + [(0, 1)] * elsewhere:
            one_by_one = one_by_one.seen(*counts, weight)
    assert math.isclose(together.log_e, one_by_one.log_e, rel_tol=1e-9, abs_tol=1e-6)


def test_no_event_is_no_evidence() -> None:
    assert RatioProcess().log_e == RatioProcess().seen(0, 0, 0.5).log_e == RateProcess(0.1).log_e == 0.0


def test_identical_versions_are_rejected_at_most_so_often_as_alpha_says() -> None:
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    rejected = 0
    for _ in range(1000):
        process = RatioProcess()
        for number in range(300):  # 300 events, looked at after each, at weights that grow
            weight = (0.01, 0.05, 0.25, 0.5)[number // 75]
            on_canary = chance.random() < weight
            process = process.seen(int(on_canary), int(not on_canary), weight)
            if rejects(process.log_e, ALPHA):
                rejected += 1
                break
    assert rejected <= 1000 * ALPHA


def test_a_canary_that_fails_ten_times_as_often_is_found_in_few_events() -> None:
    chance = random.Random(2)  # noqa: S311 - a seeded simulation
    weight, ratio = 0.05, 10
    for _ in range(100):
        process, events = RatioProcess(), 0
        while not rejects(process.log_e, 0.01):
            on_canary = chance.random() < weight * ratio / (1 - weight + weight * ratio)
            process = process.seen(int(on_canary), int(not on_canary), weight)
            events += 1
        assert events < 100


@given(st.floats(0.001, 0.9), st.floats(0, 1))
def test_a_rate_that_is_allowed_wins_no_bet(allowed: float, share: float) -> None:
    rate = allowed * share
    won, lost = (math.exp(RateProcess(allowed).seen(events, 1).log_e) for events in (1, 0))
    assert rate * won + (1 - rate) * lost <= 1 + 1e-9


def test_a_rate_above_the_allowed_one_is_found() -> None:
    assert not rejects(RateProcess(0.02).seen(20, 1000).log_e, 0.01)
    assert rejects(RateProcess(0.02).seen(80, 1000).log_e, 0.01)


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.2))
def test_bounds_hold_the_estimate_and_narrow(events: int, more: int, alpha: float) -> None:
    trials = events + more
    low, high = rate_bounds(events, trials, alpha)
    assert 0 <= low <= (events / trials if trials else 0.5) <= high <= 1
    wider = rate_bounds(events, trials, alpha / 2)
    assert wider[0] <= low
    assert wider[1] >= high
    if trials > 20:
        twice = rate_bounds(10 * events, 10 * trials, alpha)
        assert twice[1] - twice[0] < high - low


def test_bounds_hold_the_true_rate_at_all_times_at_once() -> None:
    chance = random.Random(3)  # noqa: S311 - a seeded simulation
    missed = 0
    for _ in range(400):
        events = 0
        for trials in range(1, 201):
            events += chance.random() < 0.1
            low, high = rate_bounds(events, trials, ALPHA) if trials % 10 == 0 else (0.0, 1.0)
            if not low <= 0.1 <= high:
                missed += 1
                break
    assert missed <= 400 * ALPHA


@pytest.mark.parametrize(("counts", "weight"), [((-1, 0), 0.5), ((0, -1), 0.5), ((1, 1), 0.0), ((1, 1), 1.0)])
def test_what_cannot_be_is_refused(counts: tuple[int, int], weight: float) -> None:
    with pytest.raises(ValueError, match="must"):
        RatioProcess().seen(*counts, weight)


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="events"):
        RateProcess(0.1).seen(2, 1)
    with pytest.raises(ValueError, match="events"):
        rate_bounds(2, 1, 0.1)
    with pytest.raises(ValueError, match="alpha"):
        rate_bounds(1, 2, 0.0)
    assert rate_bounds(0, 0, 0.1) == (0.0, 1.0)
    assert log_mean([-math.inf, -math.inf]) == -math.inf
