"""Failing items are found and the others answered, whatever fails; the cost is bounded in runs and in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.pipeline.isolation import Broken, GaveUp, Isolation, Quarantine


class Model:
    """Doubles numbers; raises for a batch that holds a bad one or a huge one, or is too large."""

    def __init__(self, bad: set[int], fits: int | None = None, run_s: float = 0.0) -> None:
        self.bad = bad
        self.fits = fits
        self.huge: int | None = None
        self.run_s = run_s
        self.now = 0.0
        self.sizes: list[int] = []

    def run(self, items: Sequence[int]) -> list[Any]:
        self.now += self.run_s
        self.sizes.append(len(items))
        if self.huge in items or (self.fits is not None and len(items) > self.fits):
            raise MemoryError
        if self.bad & set(items):
            raise ValueError("bad")
        return [2 * item for item in items]

    def isolation(self, budget_s: float = 1e9) -> Isolation:
        return Isolation(
            self.run,
            lambda error: isinstance(error, MemoryError),
            lambda error: isinstance(error, OSError),
            budget_s,
            lambda: self.now,
        )


def shown(outcomes: list[Any]) -> list[Any]:
    return [type(outcome).__name__ if isinstance(outcome, Exception) else outcome for outcome in outcomes]


@given(size=st.integers(0, 70), bad=st.sets(st.integers(0, 69)), fits=st.none() | st.integers(1, 80))
def test_every_item_has_its_own_outcome(size: int, bad: set[int], fits: int | None) -> None:
    found = shown(Model(bad, fits).isolation().outcomes(range(size)))
    assert found == ["ValueError" if item in bad else 2 * item for item in range(size)]


@given(size=st.integers(2, 256), data=st.data())
def test_one_culprit_costs_few_runs(size: int, data: st.DataObject) -> None:
    model = Model({data.draw(st.integers(0, size - 1))})
    model.isolation().outcomes(range(size))
    assert len(model.sizes) - 1 <= 2 * math.ceil(math.log2(size))


def test_a_batch_that_works_is_run_once() -> None:
    model = Model(set())
    assert model.isolation().outcomes([1, 2, 3]) == [2, 4, 6]
    assert model.sizes == [3]


@given(fits=st.integers(1, 40), size=st.integers(1, 64))
def test_a_size_that_fits_is_remembered(fits: int, size: int) -> None:
    model = Model(set(), fits)
    isolation = model.isolation()
    isolation.outcomes(range(size))
    model.sizes.clear()
    assert isolation.outcomes(range(size)) == [2 * item for item in range(size)]
    assert max(model.sizes) <= fits


def test_an_item_too_large_for_the_memory_fails_alone_and_leaves_later_batches_whole() -> None:
    model = Model(set(), fits=7)
    isolation = model.isolation()
    isolation.outcomes(range(8))
    assert isolation.safe_size == 4
    for huge in (0, 3):
        model.fits = 4
        model.huge = huge
        assert shown(isolation.outcomes([0, 1, 2, 3]))[huge] == "MemoryError"
        assert isolation.safe_size == 4
    model.huge = None
    model.sizes.clear()
    isolation.outcomes(range(8))
    assert model.sizes == [4, 4]


def test_what_is_no_exception_is_an_outcome_too_but_for_the_end_of_the_process() -> None:
    class Panic(BaseException):
        """What Rust code raises in its panics."""

    def run(items: Sequence[int]) -> list[Any]:
        if 3 in items:
            raise Panic("index out of bounds")
        if 9 in items:
            raise SystemExit
        return list(items)

    isolation = Isolation(run, lambda error: False, lambda error: False, 1.0, lambda: 0.0)
    found = isolation.outcomes([1, 2, 3, 4])
    assert shown(found) == [1, 2, "Panicked", 4]
    assert str(found[2]) == "Panic: index out of bounds"
    assert found[2].__traceback__ is not None
    with pytest.raises(SystemExit):
        isolation.outcomes([9])


def test_after_the_time_is_over_the_rest_is_given_up() -> None:
    model = Model({0, 31}, run_s=1.0)
    found = model.isolation(budget_s=3.0).outcomes(range(32))
    assert any(isinstance(outcome, GaveUp) for outcome in found)
    assert len(model.sizes) <= 5
    assert len(found) == 32


def test_a_broken_device_ends_all_and_is_told() -> None:
    model = Model(set())

    def run(items: Sequence[int]) -> list[Any]:
        model.sizes.append(len(items))
        raise OSError("device-side assert")

    isolation = Isolation(run, lambda error: False, lambda error: isinstance(error, OSError), 1.0, lambda: 0.0)
    assert all(isinstance(outcome, Broken) for outcome in isolation.outcomes([1, 2, 3]))
    assert model.sizes == [3]
    assert isolation.is_broken
    assert all(isinstance(outcome, Broken) for outcome in isolation.outcomes([1]))
    assert model.sizes == [3]


def test_a_digest_is_held_for_its_time_and_the_oldest_leaves_first() -> None:
    now = [0.0]
    quarantine = Quarantine(10.0, 2, lambda: now[0])
    assert not quarantine
    quarantine.add(b"a")
    now[0] = 5.0
    quarantine.add(b"b")
    assert quarantine.holds(b"a")
    assert quarantine.holds(b"b")
    now[0] = 10.0
    assert not quarantine.holds(b"a")
    quarantine.add(b"c")
    quarantine.add(b"d")
    assert [quarantine.holds(digest) for digest in (b"b", b"c", b"d")] == [False, True, True]
    now[0] = 99.0
    assert not quarantine.holds(b"d")
    assert not quarantine


@pytest.mark.parametrize("again", [0, 5])
def test_holding_again_prolongs(again: int) -> None:
    now = [0.0]
    quarantine = Quarantine(10.0, 2, lambda: now[0])
    quarantine.add(b"a")
    now[0] = float(again)
    quarantine.add(b"a")
    now[0] = again + 9.0
    assert quarantine.holds(b"a")
