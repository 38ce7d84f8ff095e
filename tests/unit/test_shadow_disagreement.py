"""A shadow is judged against stable's own noise, by slice and by label, with about the pairs that were planned."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.shadow.comparators import Label
from tsctl.shadow.disagreement import Disagreement, Repeat, compare, observe, without
from tsctl.shadow.labels import McNemar
from tsctl.shadow.pairing import Answer, Pair, Track
from tsctl.shadow.plan import pairs_to_find, pairs_to_pass
from tsctl.shadow.slices import MOST_SLICES, MOST_WAITING, Slices, slice_names
from tsctl.statistics.sequential import rejects

ALPHA, LIMIT = 0.01, 0.005
BOTH = {Repeat.ALONE: False, Repeat.BATCH: False}


def stable(value: object = None, status: int = 200) -> Answer:
    return Answer("1", Track.STABLE, value, status)


def shadow(value: object = None, status: int = 200) -> Answer:
    return Answer("1", Track.SHADOW, value, status)


def test_problems_agree_by_their_status_and_answers_by_the_comparator() -> None:
    assert not compare(stable(status=422), shadow(status=422), Label()).differs
    wrong = compare(stable({"label": "a"}), shadow(status=500), Label())
    assert (wrong.differs, wrong.about) == (True, "status 500 in place of 200")
    assert compare(stable({"label": "a"}), shadow({"label": "b"}), Label()).differs


def test_a_pair_and_its_repeats_are_counted() -> None:
    answers = Pair(stable({"label": "a"}), shadow({"label": "b"}))
    repeats = {Repeat.ALONE: stable({"label": "a"}), Repeat.BATCH: stable({"label": "c"})}
    evidence, comparison = observe(Disagreement(), answers, repeats, Label())
    evidence, _ = observe(evidence, Pair(stable({"label": "a"}), shadow({"label": "a"})), {}, Label())
    assert comparison.about == "expected 'a', got 'b'"
    assert (evidence.pairs, evidence.differing) == (2, 1)
    assert evidence.repeats_differing == {Repeat.ALONE: 0, Repeat.BATCH: 1}
    assert evidence.floors[Repeat.ALONE].first == evidence.floors[Repeat.BATCH].same == 1
    assert evidence.rate_bounds(ALPHA)[0] < 0.5 < evidence.rate_bounds(ALPHA)[1]
    assert evidence.floor_bounds(Repeat.ALONE, ALPHA)[0] == 0
    assert evidence.above_floor_bounds(Repeat.ALONE, ALPHA)[0] < 1


def test_without_a_measured_floor_nothing_is_decided() -> None:
    evidence = Disagreement()
    for _ in range(500):
        evidence = evidence.seen(True, {})
    assert not evidence.exceeds(LIMIT, ALPHA)
    assert not evidence.stays_below(LIMIT, ALPHA)
    none = without(without(evidence, Repeat.ALONE), Repeat.BATCH)
    assert not none.exceeds(LIMIT, ALPHA)
    assert not none.stays_below(LIMIT, ALPHA)
    one = Disagreement()
    for _ in range(100):
        one = one.seen(True, {Repeat.BATCH: False})
    assert not one.exceeds(LIMIT, ALPHA)  # never asked alone
    assert without(one, Repeat.ALONE).exceeds(LIMIT, ALPHA)


def test_a_shadow_as_noisy_as_stable_in_one_way_is_no_worse() -> None:
    evidence = Disagreement()
    for number in range(2000):
        noisy = number % 20 == 0
        evidence = evidence.seen(noisy, {Repeat.ALONE: False, Repeat.BATCH: noisy})
    assert not evidence.exceeds(LIMIT, ALPHA)
    assert rejects(without(evidence, Repeat.BATCH).log_e_above(LIMIT), ALPHA)


@pytest.mark.parametrize(("rate", "floor"), [(0.02, 0.0), (0.02, 0.005), (0.05, 0.02), (0.2, 0.0)])
def test_a_bad_shadow_is_found_with_about_the_pairs_that_were_planned(rate: float, floor: float) -> None:
    planned = pairs_to_find(rate, floor, LIMIT, ALPHA)
    assert planned.median is not None
    assert planned.surely is not None
    chance = random.Random(1)  # noqa: S311 - a seeded simulation
    needed = []
    for _ in range(40):
        evidence = Disagreement()
        while not evidence.exceeds(LIMIT, ALPHA):
            differs = False
            while not differs:  # only a difference adds evidence
                differs = chance.random() < rate
                evidence = evidence.seen(differs, {repeat: chance.random() < floor for repeat in Repeat})
        needed.append(evidence.pairs)
    assert planned.median / 2 < median(needed) < planned.median * 2
    assert sum(pairs <= planned.surely for pairs in needed) >= 0.6 * len(needed)


@pytest.mark.parametrize("floor", [0.0, 0.005])
def test_an_identical_shadow_passes_with_about_the_pairs_that_were_planned(floor: float) -> None:
    planned = pairs_to_pass(floor, floor, LIMIT, ALPHA)
    assert planned.median is not None
    chance = random.Random(2)  # noqa: S311 - a seeded simulation
    needed = []
    for _ in range(15):
        evidence = Disagreement()
        while not evidence.stays_below(LIMIT, ALPHA):
            for _ in range(25):  # evidence comes slowly
                differs, again = chance.random() < floor, {repeat: chance.random() < floor for repeat in Repeat}
                evidence = evidence.seen(differs, again)
            assert not evidence.exceeds(LIMIT, ALPHA)
        needed.append(evidence.pairs)
    assert planned.median / 2 < median(needed) < planned.median * 2


@given(st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0.001, 0.1))
def test_a_plan_has_an_end_only_where_there_is_something_to_find(rate: float, floor: float, limit: float) -> None:
    found, passed = pairs_to_find(rate, floor, limit, ALPHA), pairs_to_pass(rate, floor, limit, ALPHA)
    excess = rate - floor - limit
    if excess <= 0:
        assert found.median is None
    if excess >= 0:
        assert passed.median is None
    if found.median and found.surely:
        assert found.median <= found.surely


def test_a_plan_needs_rates() -> None:
    with pytest.raises(ValueError, match="rates"):
        pairs_to_find(1.1, 0.0, LIMIT, ALPHA)
    with pytest.raises(ValueError, match="rates"):
        pairs_to_pass(0.1, -0.1, LIMIT, ALPHA)


def slices_of(rates: dict[str, float], pairs: int, seed: int) -> Slices:
    chance, slices = random.Random(seed), Slices()  # noqa: S311 - a seeded simulation
    for _ in range(pairs):
        label, shape = chance.choice(list(rates)), chance.choice("ab")
        slices.seen([label, shape], chance.random() < rates[label])
    return slices


def test_the_worst_slice_is_found_and_no_other() -> None:
    rates = {f"class {number}": 0.3 if number == 7 else 0.01 for number in range(10)}
    slices = slices_of(rates, 1500, 1)
    worst = slices.worst(ALPHA)
    assert [each.name for each in worst] == ["class 7"]
    assert 0.2 < worst[0].differing / worst[0].pairs < 0.4
    assert worst[0].low < 0.3 < worst[0].high
    assert slices.looked_at == 12


def test_equal_slices_are_hardly_ever_named() -> None:
    rates = {f"class {number}": 0.1 for number in range(10)}
    assert sum(bool(slices_of(rates, 400, seed).worst(0.1)) for seed in range(60)) <= 6


def test_slices_and_what_waits_are_bounded() -> None:
    slices = Slices()
    for number in range(MOST_SLICES + 5):
        slices.seen([f"id {number}"], False)
    assert slices.looked_at == MOST_SLICES
    assert slices.left_out == {f"id {number}" for number in range(MOST_SLICES, MOST_SLICES + 5)}
    all_in_one = Slices()
    for _ in range(MOST_WAITING + 10):
        all_in_one.seen(["everything"], True)
    assert all_in_one.worst(ALPHA) == []
    assert len(all_in_one._slices["everything"].inside) == MOST_WAITING


def test_a_request_is_in_a_slice_for_each_feature() -> None:
    features: dict[str, float | str | None] = {"shape": "round", "width": 3.5, "height": None, "free": 2.0, "long": 0.0}
    names = slice_names(features, {"width": [1, 3], "long": [1, 2]}, "7")
    assert names == ["class 7", "shape round", "width from 3", "height missing", "long below 1"]
    assert slice_names({"width": 2.0}, {"width": [1, 3]}) == ["width from 1 below 3"]


def test_labels_say_which_version_is_wrong_more_often() -> None:
    table = McNemar()
    chance = random.Random(3)  # noqa: S311 - a seeded simulation
    for _ in range(2000):
        hard = chance.random() < 0.1
        table = table.seen(not hard or chance.random() < 0.5, not hard or chance.random() < 0.2)
    assert table.labels == 2000
    assert table.shadow_wrong > table.stable_wrong > 0
    assert rejects(table.log_e, ALPHA)
    assert table.p_value < 1e-4
    low, high = table.error_bounds(ALPHA)
    assert 0 < low < 0.03 < high < 0.1
    swapped = McNemar(table.both_right, table.both_wrong, table.stable_wrong, table.shadow_wrong)
    assert not rejects(swapped.log_e, ALPHA)
    assert swapped.p_value == table.p_value


def test_labels_that_both_get_right_or_wrong_say_nothing() -> None:
    table = McNemar().seen(True, True).seen(False, False)
    assert (table.both_right, table.both_wrong, table.log_e, table.p_value) == (1, 1, 0.0, 1.0)
