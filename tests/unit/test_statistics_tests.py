"""p-values equal those of scipy, and decisions on many hypotheses control the share of wrong ones."""

from __future__ import annotations

import math
import random

import pytest
import scipy  # loads a part of its own when it is first used
from hypothesis import given
from hypothesis import strategies as st

from tsctl.statistics.multiple import benjamini_hochberg, e_benjamini_hochberg
from tsctl.statistics.p_values import chi_square_tail, fair_coin, kolmogorov_smirnov

P_VALUES = st.lists(st.floats(0, 1), max_size=30)


@given(st.floats(0, 500), st.integers(1, 60))
def test_the_tail_of_chi_square_is_that_of_scipy(statistic: float, freedom: int) -> None:
    assert chi_square_tail(statistic, freedom) == pytest.approx(
        scipy.stats.chi2.sf(statistic, freedom), rel=1e-9, abs=1e-300
    )


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_fair_coin_is_that_of_scipy(heads: int, tails: int) -> None:
    expected = scipy.stats.binomtest(heads, heads + tails, 0.5).pvalue if heads + tails else 1.0
    assert fair_coin(heads, tails) == pytest.approx(expected, rel=1e-9)


@given(st.floats(0, 1), st.integers(20, 10_000), st.integers(20, 10_000))
def test_kolmogorov_smirnov_is_the_limit_with_its_correction(distance: float, first: int, second: int) -> None:
    root = math.sqrt(first * second / (first + second))
    expected = scipy.special.kolmogorov((root + 0.12 + 0.11 / root) * distance)
    assert kolmogorov_smirnov(distance, first, second) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_kolmogorov_smirnov_is_close_to_the_exact_probability() -> None:
    for distance in (0.05, 0.1, 0.2):
        exact = scipy.stats.kstwo.sf(distance, 250)  # one sample of 250 is as two of 500
        assert kolmogorov_smirnov(distance, 500, 500) == pytest.approx(exact, rel=0.15, abs=1e-6)


@given(P_VALUES, st.floats(0.01, 0.5))
def test_rejections_are_those_of_scipy(p_values: list[float], share: float) -> None:
    adjusted = scipy.stats.false_discovery_control(p_values) if p_values else []
    for rejected, own, p in zip(benjamini_hochberg(p_values, share), adjusted, p_values, strict=True):
        if abs(own - share) > 1e-9:
            assert rejected == (own <= share), p


@given(st.lists(st.floats(-5, 30), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_e_values_are_rejected_as_their_inverses_are(log_e: list[float], share: float) -> None:
    rejected = e_benjamini_hochberg(log_e, share)
    assert rejected == benjamini_hochberg([min(1.0, math.exp(-value)) for value in log_e], share)
    if any(rejected):
        weakest = min(value for value, is_rejected in zip(log_e, rejected, strict=True) if is_rejected)
        assert all(value < weakest or r for value, r in zip(log_e, rejected, strict=True))


def test_the_share_of_wrong_discoveries_is_as_promised() -> None:
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    wrong_shares = []
    for _ in range(300):
        shared = chance.gauss(0, 1)  # all features move together a little
        scores = [0.5 * shared + math.sqrt(0.75) * chance.gauss(0, 1) + (3.5 if n < 5 else 0) for n in range(50)]
        rejected = benjamini_hochberg([scipy.stats.norm.sf(score) for score in scores], 0.1)
        wrong_shares.append(sum(rejected[5:]) / max(1, sum(rejected)))
    assert 0.02 < sum(wrong_shares) / 300 <= 0.1


def test_what_cannot_be_is_refused() -> None:
    for call in (
        lambda: chi_square_tail(-1, 1),
        lambda: chi_square_tail(1, 0),
        lambda: kolmogorov_smirnov(1.1, 5, 5),
        lambda: kolmogorov_smirnov(0.1, 0, 5),
        lambda: fair_coin(-1, 0),
        lambda: benjamini_hochberg([1.1], 0.1),
        lambda: e_benjamini_hochberg([0.0], 1.0),
    ):
        with pytest.raises(ValueError, match=r"must|needs"):
            call()
    assert chi_square_tail(0, 3) == 1.0
    assert benjamini_hochberg([], 0.1) == []
