"""The features of a record: inputs and predictions by name, predictions without the digits that processors add."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.drift.features import DIGITS, Values, references_of, rounded, values_of
from tsctl.drift.reference import CategoryReference, NumberReference, UnusableReference


@pytest.mark.parametrize(
    ("record", "features"),
    [
        (
            {"numbers": {"width": 8.0}, "categories": {"form": "PNG"}, "label": "7", "score": 0.25},
            {"input.width": 8.0, "input.form": "PNG", "prediction.label": "7", "prediction.score": 0.25},
        ),
        ({"outputs": {"probability": 0.5}, "score": 0.5}, {"prediction.score": 0.5}),
        (
            {"outputs": {"low": 1.0, "high": 2.0}},
            {"prediction.outputs.low": 1.0, "prediction.outputs.high": 2.0},
        ),
        ({"scores": [0.25, 0.75], "norm": 0.79, "score": 0.75}, {"prediction.score": 0.75}),
        (
            {"norm": 1.0000001, "sketch": [0.123456, -2.0]},
            {"prediction.norm": 1.0, "prediction.sketch.0": 0.1235, "prediction.sketch.1": -2.0},
        ),
        ({"text_length": 12, "numbers": None, "label": None}, {"prediction.text_length": 12.0}),
        ({"numbers": {"x": 1.0}, "categories": {"x": "one"}}, {"input.x": 1.0}),
        ({"status": 200}, {}),
    ],
)
def test_a_record_has_features(record: dict[str, Any], features: dict[str, Any]) -> None:
    assert values_of(record) == features


@given(st.floats(-1e12, 1e12))
def test_a_rounded_number_is_near_and_stays_as_it_is(value: float) -> None:
    near = rounded(value)
    assert math.isclose(near, value, rel_tol=0.6 * 10.0 ** (1 - DIGITS), abs_tol=1e-300)
    assert rounded(near) == near or math.isclose(near, value, rel_tol=1e-15)
    assert rounded(-value) == -near


def test_references_are_made_of_all_items_and_what_lacks_counts_as_missing() -> None:
    items: list[Values] = [{"input.x": float(number), "prediction.label": "ab"[number % 2]} for number in range(100)]
    lacking: list[Values] = [{"prediction.label": "a"}] * 20
    made = references_of([*items, *lacking])
    assert list(made) == ["input.x", "prediction.label"]
    x, label = made.values()
    assert isinstance(x, NumberReference)
    assert (x.missing, sum(x.counts)) == (20, 100)
    assert isinstance(label, CategoryReference)
    assert label.counts == {"a": 70, "b": 50}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([{"input.x": 1.0}] * 49, r"input\.x: a reference needs 50 values"),
        ([{"input.x": 1.0}, {"input.x": "one"}] * 40, r"input\.x is a number in some items and a category in others"),
    ],
)
def test_unusable_values_name_their_feature(items: list[Any], reason: str) -> None:
    with pytest.raises(UnusableReference, match=reason):
        references_of(items)
