"""What is counted inside a window of streams, and how many users are served in time."""

from __future__ import annotations

import math

import pytest

from benchmarks.text.prompts import Lengths, arrivals, bodies, mean_lengths
from benchmarks.text.statistics import Served, Times, served, users_within
from benchmarks.text.stream import BROKEN, REFUSED, WHOLE, Stream

NOTHING = Times(0, math.nan, math.nan, math.nan)


def stream(asked: float, moments: list[float], outcome: str = WHOLE, tokens: int | None = None) -> Stream:
    ended = moments[-1] if moments else asked + 0.01
    return Stream(asked, 200, moments, ended, outcome, answer=tokens)


def level(first_ms: float, token_ms: float, failed: int = 0) -> Served:
    outcomes = {WHOLE: 5, BROKEN: failed}
    first, token = (Times(5, value, value, value) for value in (first_ms, token_ms))
    return Served(1.0, 1.0, first, token, token, NOTHING, outcomes)


def test_only_what_lies_in_the_window_counts() -> None:
    streams = [stream(0.0, [0.5, 1.0, 1.5, 2.5]), stream(1.0, [1.2, 1.3])]
    seen = served(streams, 1.0, 2.0)
    assert seen.tokens_s == 4.0  # 1.0 and 1.5 of the first, both of the second
    assert [seen.first.count, seen.token.count, seen.gap.count] == [1, 1, 2]
    times_ms = [seen.first.p50, seen.token.p50, seen.gap.p50, seen.gap.p99]
    assert times_ms == pytest.approx([200, 100, 100, 500])
    assert seen.outcomes[WHOLE] == 1


def test_texts_of_several_tokens_count_as_what_the_server_says() -> None:
    assert served([stream(0.0, [0.1, 0.2], tokens=6)], 0.0, 1.0).tokens_s == 6.0


def test_refusals_have_times_of_their_own() -> None:
    seen = served([Stream(0.0, 503, [], 0.02, REFUSED), stream(0.0, [0.1])], 0.0, 1.0)
    assert seen.refusal.p99 == pytest.approx(20)
    assert seen.failed == 1


def test_a_burst_is_infinite_where_most_texts_come_together() -> None:
    assert served([stream(0.0, [0.1, 0.1, 0.1, 0.3])], 0.0, 1.0).burst == math.inf
    assert served([stream(0.0, [0.1, 0.2, 0.3, 0.6])], 0.0, 1.0).burst == pytest.approx(3.0)


def test_no_values_have_no_percentiles() -> None:
    assert math.isnan(served([], 0.0, 1.0).first.p50)


def test_users_are_served_up_to_the_first_level_that_is_too_slow() -> None:
    levels = {1: level(10, 5), 4: level(15, 9), 8: level(21, 9), 16: level(12, 9)}
    assert users_within(levels, levels[1], 2.0) == 4
    assert users_within(levels, level(20, 5), 2.0) == 16
    assert users_within({1: level(30, 5)}, levels[1], 2.0) == 0


def test_a_level_with_a_failed_request_serves_nobody() -> None:
    levels = {1: level(10, 5), 4: level(10, 5, failed=1)}
    assert users_within(levels, levels[1], 2.0) == 1


def test_nothing_served_is_not_in_time() -> None:
    levels = {1: level(10, 5), 4: level(math.nan, math.nan)}
    assert users_within(levels, levels[1], 2.0) == 1


def test_equal_seeds_give_equal_requests_and_no_two_prompts_are_alike() -> None:
    lengths = Lengths((16, 64), (16, 32))
    sent = bodies(lengths, 200, seed=3)
    assert sent == bodies(lengths, 200, seed=3)
    assert len(set(sent)) == 200
    assert all(16 <= prompt <= 64 and 16 <= answer <= 32 for prompt, answer in lengths.pairs(200, 3))
    prompt, answer = mean_lengths(lengths, 200, 3)
    assert 30 < prompt < 40
    assert 20 < answer < 26


def test_an_open_loop_sends_as_often_as_it_should() -> None:
    moments = arrivals(50.0, 40.0, seed=1)
    assert moments == sorted(moments)
    assert 1800 < len(moments) < 2200
    assert moments[-1] < 40.0
