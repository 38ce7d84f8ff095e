"""When a request is refused because its answer would come too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.adapters.asgi.pace import Pace


def paced(*batches: tuple[int, float], size: int = 4) -> Pace:
    pace = Pace(size)
    for requests, seconds in batches:
        pace.ended(requests, seconds)
    return pace


def test_nobody_is_refused_before_a_batch_was_full() -> None:
    pace = paced((1, 9.0))
    assert not pace.is_too_late(10_000, 1, 0.001)


def test_nobody_is_refused_behind_less_than_a_batch() -> None:
    assert not paced((4, 9.0)).is_too_late(3, 1, 0.001)


def test_the_wait_is_the_rest_of_a_batch_those_ahead_and_its_own() -> None:
    assert paced((4, 1.0)).wait_s(8, 1) == 3.5
    assert paced((4, 1.0)).wait_s(8, 2) == 2.5
    assert paced((4, 1.0)).is_too_late(8, 1, 4.0)
    assert not paced((4, 1.0)).is_too_late(8, 1, 4.5)


def test_the_estimate_follows_the_batches_of_now() -> None:
    pace = paced((4, 1.0), *[(4, 0.1)] * 20)
    assert pace.wait_s(4, 1) == pytest.approx(2.5 * 0.1)


def test_the_estimate_is_the_mean_of_a_round_of_short_and_long_batches() -> None:
    assert paced((4, 0.1), (4, 0.2), (4, 0.3), (4, 1.0)).wait_s(4, 1) == pytest.approx(2.5 * 0.4)


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0.001, 10)), max_size=30), st.integers(0, 99), st.integers(1, 8))
def test_the_wait_grows_with_those_ahead_and_shrinks_with_workers(
    batches: list[tuple[int, float]], ahead: int, workers: int
) -> None:
    pace = paced(*batches)
    assert 0 <= pace.wait_s(ahead, workers) <= pace.wait_s(ahead + 1, workers)
    assert pace.wait_s(ahead, workers + 1) <= pace.wait_s(ahead, workers)
