"""Bets on the difference of two paired events are fair where there is none, find one, and their bounds hold."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.statistics.differences import DifferenceProcess
from tsctl.statistics.sequential import rejects

RATES = st.floats(0, 1)
COUNTS = st.builds(DifferenceProcess, st.integers(0, 60), st.integers(0, 60), st.integers(0, 400))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(-0.95, 0.95))
def test_no_bet_on_a_difference_that_is_allowed_wins_on_average(shares: list[float], margin: float) -> None:
    total = sum(shares)
    if not total:
        return
    first, second, same = (share / total for share in shares)  # any joint law of both events
    excess = first - second - margin
    outcomes = (DifferenceProcess(1, 0, 0), DifferenceProcess(0, 1, 0), DifferenceProcess(0, 0, 1))
    above, below = (
        sum(share * math.exp(log_e(margin)) for share, log_e in zip((first, second, same), each, strict=True))
        for each in ([o.log_e_above for o in outcomes], [o.log_e_below for o in outcomes])
    )
    assert excess > 0 or above <= 1 + 1e-9
    assert excess < 0 or below <= 1 + 1e-9


@given(COUNTS, st.floats(-0.9, 0.8), st.floats(0.001, 0.1))
def test_the_evidence_falls_as_the_margin_grows(counts: DifferenceProcess, margin: float, more: float) -> None:
    assert counts.log_e_above(margin + more) <= counts.log_e_above(margin) + 1e-9
    assert counts.log_e_below(margin + more) >= counts.log_e_below(margin) - 1e-9


@given(COUNTS, st.floats(0.001, 0.2))
def test_bounds_hold_the_estimate_and_say_what_is_rejected(counts: DifferenceProcess, alpha: float) -> None:
    low, high = counts.bounds(alpha)
    assert -1 <= low <= high <= 1
    if counts.estimate is None:
        assert (low, high) == (-1.0, 1.0)
        return
    assert low - 1e-6 <= counts.estimate <= high + 1e-6
    if low > -1:
        assert rejects(counts.log_e_above(low - 1e-6), alpha / 2)
        assert not rejects(counts.log_e_above(low + 1e-6), alpha / 2)
    mirrored = DifferenceProcess(counts.second, counts.first, counts.same).bounds(alpha)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_pairs_are_counted_by_their_difference(pairs: list[tuple[bool, bool]]) -> None:
    process = DifferenceProcess()
    for pair in pairs:
        process = process.seen(*pair)
    assert process.pairs == len(pairs)
    assert process.first == pairs.count((True, False))
    assert process.second == pairs.count((False, True))


def test_bounds_hold_the_true_difference_at_all_times_at_once() -> None:
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    missed = 0
    for _ in range(100):
        process = DifferenceProcess()
        for number in range(1, 201):
            hard = chance.random() < 0.2  # inputs on which both events come more often
            process = process.seen(chance.random() < (0.5 if hard else 0.1), chance.random() < (0.5 if hard else 0.02))
            if number % 20 == 0:
                low, high = process.bounds(0.1)
                if not low <= 0.8 * 0.08 <= high:
                    missed += 1
                    break
    assert missed <= 100 * 0.1


def test_a_difference_is_found_and_none_is_not() -> None:
    assert rejects(DifferenceProcess(20, 0, 980).log_e_above(0.005), 0.01)
    assert not rejects(DifferenceProcess(20, 15, 965).log_e_above(0.005), 0.01)
    assert rejects(DifferenceProcess(0, 0, 1000).log_e_below(0.01), 0.01)
    assert not rejects(DifferenceProcess(0, 0, 100).log_e_below(0.01), 0.01)
    assert DifferenceProcess().log_e_above(0.01) == 0.0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        DifferenceProcess().log_e_above(1.0)
    with pytest.raises(ValueError, match="alpha"):
        DifferenceProcess().bounds(1.0)
