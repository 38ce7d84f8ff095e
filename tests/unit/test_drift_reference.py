"""References count values in bins, exactly, and come back from JSON as they were."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.drift.reference import (
    BINS,
    LEAST_OWN,
    LEAST_VALUES,
    MOST_CATEGORIES,
    NumberReference,
    Reference,
    UnusableReference,
    add,
    category_reference,
    count,
    from_json,
    number_reference,
    to_json,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.lists(FLOATS | st.sampled_from([0.0, 1.0]), min_size=LEAST_VALUES, max_size=200)
CATEGORIES = st.lists(st.text(max_size=2) | st.none(), min_size=LEAST_VALUES, max_size=200)


@given(NUMBERS, st.integers(0, 5))
def test_the_reference_values_fall_into_their_own_bins(values: list[float], missing: int) -> None:
    given_values: list[float | None] = [*values, *[None] * missing]
    reference = number_reference(given_values)
    counts = count(reference, given_values)
    assert counts == reference.reference
    assert (counts[0], counts[1], counts[-1]) == (missing, 0, 0)
    assert len(reference.names) == len(counts)
    assert len(reference.counts) <= BINS
    assert number_reference(reversed(given_values)) == reference
    assert min(reference.counts) > 0


@given(NUMBERS, FLOATS | st.sampled_from([math.nan, math.inf, None, "text", True]))
def test_every_value_has_a_bin(values: list[float], value: Any) -> None:
    reference = number_reference(values)
    place = reference.bin_of(value)
    if not isinstance(value, float) or not math.isfinite(value):
        assert place == 0
    elif value < min(values):
        assert place == 1
    elif value > max(values):
        assert place == len(reference.names) - 1
    else:
        low, high = reference.edges[max(place - 2, 0)], reference.edges[min(place - 1, len(reference.edges) - 1)]
        assert 2 <= place < len(reference.names) - 1
        assert low <= value <= high


def test_bins_hold_equally_many_of_different_values() -> None:
    reference = number_reference([number / 7 for number in range(1000)])
    assert set(reference.counts) == {50}
    assert reference.edges[0] == 0
    assert reference.edges[-1] == 999 / 7


@given(CATEGORIES)
def test_categories_have_bins_by_their_frequency(values: list[str | None]) -> None:
    if not any(values):
        return
    reference = category_reference(values)
    assert count(reference, values) == reference.reference
    assert list(reference.counts.values()) == sorted(reference.counts.values(), reverse=True)
    assert category_reference(reversed(values)) == reference
    assert count(reference, ["never seen"])[-1] == 1
    assert count(reference, [None, ""])[0] == 2


def test_rare_categories_share_a_bin() -> None:
    reference = category_reference([*list(range(MOST_CATEGORIES)) * LEAST_OWN, "rare", "rarer"])
    assert len(reference.counts) == MOST_CATEGORIES
    assert reference.others == 2
    few = category_reference([*range(MOST_CATEGORIES), *["often"] * LEAST_OWN, *["less"] * (LEAST_OWN - 1)])
    assert set(few.counts) == {"often"}
    assert reference.bin_of("rare") == reference.bin_of("rarer") == reference.bin_of("new") == len(reference.names) - 1


@given(NUMBERS, CATEGORIES)
def test_references_come_back_from_json(numbers: list[float], categories: list[str | None]) -> None:
    references: dict[str, Reference] = {"width": number_reference(numbers)}
    if any(categories):
        references["shape"] = category_reference(categories)
    assert from_json(json.loads(json.dumps(to_json(references)))) == references


GOOD = {"kind": "number", "edges": [0.0, 1.0], "counts": [60], "missing": 0}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "version None, 1 is expected"),
        ({"version": 2, "features": {}}, "version 2"),
        ({"version": 1, "features": []}, "the reference should be a mapping"),
        ({"version": 1, "features": {"width": {**GOOD, "kind": "tensor"}}}, "width"),
        ({"version": 1, "features": {"width": {**GOOD, "edges": [1.0, 0.0]}}}, "width.*must grow"),
        ({"version": 1, "features": {"width": {**GOOD, "edges": []}}}, "width.*at least one"),
        ({"version": 1, "features": {"width": {**GOOD, "counts": [60, 1]}}}, "width.*one for each two edges"),
        ({"version": 1, "features": {"width": {**GOOD, "counts": [6]}}}, f"width.*needs {LEAST_VALUES} values"),
        ({"version": 1, "features": {"shape": {"kind": "category", "counts": {}}}}, "shape.*must be one"),
        ({"version": 1, "features": {"shape": {"kind": "category", "counts": {"a": 9}}}}, "shape.*needs"),
    ],
)
def test_a_stored_form_that_is_no_reference_names_its_feature(stored: Any, message: str) -> None:
    with pytest.raises(UnusableReference, match=message):
        from_json(stored)


def test_too_few_values_say_what_to_do() -> None:
    for numbers in ([1.0] * 9, [None] * 99):
        with pytest.raises(UnusableReference, match="give more reference data"):
            number_reference(numbers)
    for values in (["a"] * 9, [None] * 99):
        with pytest.raises(UnusableReference, match="give more reference data"):
            category_reference(values)
    assert number_reference([1.0] * LEAST_VALUES).names == ("missing", "below 1", "1", "above 1")


def test_counts_of_windows_add_up() -> None:
    reference = NumberReference((0.0, 1.0), (60,))
    assert add(count(reference, [0.5, 2.0]), count(reference, [-1.0])) == count(reference, [0.5, 2.0, -1.0])
