"""What a watch keeps between two readings: evidence, counts by hour, and an alarm that stays."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from tests.support.drift import item, references
from tsctl.drift.features import values_of
from tsctl.drift.reference import Counts, count
from tsctl.drift.state import HOUR_S, HOURS, WatchState, begin, from_json, to_json

OF = references()
DAY_S = 86_400.0
START = 490_000 * HOUR_S


def counts_of(items: int, shift: float = 0.0, seed: int = 5) -> Mapping[str, Counts]:
    chance = random.Random(seed)  # noqa: S311 - the same in each run
    rows = [values_of(item(chance, shift)) for _ in range(items)]
    return {name: count(reference, [row.get(name) for row in rows]) for name, reference in OF.items()}


def watched(shift: float, parts: int = 4, items: int = 25) -> WatchState:
    state = begin("key", OF, 30 * DAY_S, START)
    for number in range(parts):
        at = START + 60 * number
        state = state.seen(at, at + 60, items, counts_of(items, shift, seed=number))
    return state


def test_a_stored_state_goes_on_as_it_was() -> None:
    state = watched(0.5)
    stored = from_json(to_json(state), "key", OF, 30 * DAY_S)
    assert stored == state
    assert stored is not None
    after = counts_of(10)
    assert stored.seen(START + 240, START + 300, 10, after) == state.seen(START + 240, START + 300, 10, after)
    fresh = begin("key", OF, 30 * DAY_S, START)
    assert from_json(to_json(fresh), "key", OF, 30 * DAY_S) == fresh


def test_other_references_or_another_budget_begin_anew_and_damage_is_an_error() -> None:
    stored = to_json(watched(0.0))
    assert from_json(stored, "other", OF, 30 * DAY_S) is None
    assert from_json(stored, "key", OF, 31 * DAY_S) is None
    with pytest.raises(ValueError, match="features"):
        from_json(stored.replace('"input.width"', '"input.depth"'), "key", OF, 30 * DAY_S)
    with pytest.raises(ValueError, match="JSON"):
        from_json(stored[:-5], "key", OF, 30 * DAY_S)


def test_an_alarm_names_its_time_and_cause_and_stays_until_it_is_accepted() -> None:
    assert watched(0.0).alarm is None
    state = watched(2.0)
    assert state.alarm is not None
    assert START < state.alarm.at_s <= START + 240
    assert [name for name, _ in state.alarm.causes] == ["input.width"]
    later = state
    for number in range(40):
        at = START + 300 + 60 * number
        later = later.seen(at, at + 60, 25, counts_of(25, 0.0, seed=100 + number))
    assert later.alarm == state.alarm, "it does not end by itself"
    accepted = state.accepted()
    assert accepted.alarm is None
    assert not accepted.watch.is_alarm
    assert sum(accepted.watch.detectors["input.width"].weights) > sum(begin("", OF, 1, 0).watch.detectors[
        "input.width"].weights)  # fmt: skip


def test_the_last_day_is_the_sum_of_its_hours() -> None:
    state = begin("key", OF, 30 * DAY_S, START)
    for number in range(HOURS + 5):
        at = START + HOUR_S * number
        state = state.seen(at, at + HOUR_S, 10, counts_of(10))
        assert state.last_day().items == 10 * min(number + 1, HOURS)
    ten = counts_of(10)
    assert state.last_day().counts == {name: tuple(HOURS * value for value in counts) for name, counts in ten.items()}
    assert state.read_until(state.read_until_s + 10 * HOUR_S).last_day().items == 10 * (HOURS - 10)
    assert len(state.hours) == HOURS
    assert state.items == 10 * (HOURS + 5)
