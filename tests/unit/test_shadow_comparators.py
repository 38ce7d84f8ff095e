"""Answers are compared by task: what agrees, what differs and by how much, and which comparator is the wrong one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Tolerance
from tsctl.shadow.comparators import (
    COMPARATORS,
    Comparator,
    Json,
    Label,
    NotComparable,
    Number,
    Text,
    TopK,
    Vector,
    comparator_for,
)
from tsctl.shadow.edits import edit_distance, edited_share

SEVEN = {"label": "7", "probabilities": [0.0, 0.1, 0.2, 0.7]}
ONE = {"label": "1", "probabilities": [0.0, 0.7, 0.2, 0.1]}
WORDS = st.text(alphabet="abcé🙂", max_size=12)


@pytest.mark.parametrize(
    ("comparator", "stable", "other", "differs", "distance"),
    [
        (Label(), SEVEN, {**ONE, "label": "7"}, False, 0),
        (Label(), SEVEN, ONE, True, 1),
        (Label(), {"label": 1}, {"label": "1"}, True, 1),
        (Label(), SEVEN, {}, True, 1),
        (Label(), SEVEN, None, True, 1),
        (Label("first.label"), {"first": SEVEN}, {"first": ONE}, True, 1),
        (Label(""), "cat", "dog", True, 1),
        (TopK(2), SEVEN, ONE, True, 0.5),
        (TopK(2, least=0.5), SEVEN, ONE, False, 0.5),
        (TopK(3), SEVEN, ONE, False, 0),
        (TopK(1), SEVEN, {"probabilities": [0.1, math.nan, 0, 0]}, True, 1),
        (TopK(2, field=""), {"cat": 0.6, "dog": 0.4, "cow": 0}, {"cat": 0.5, "cow": 0.5, "dog": 0}, True, 0.5),
        (TopK(1, field="top"), {"top": [{"label": "7"}, {"label": "1"}]}, {"top": [{"label": "1"}]}, True, 1),
        (Number(Tolerance(0.1)), 1.0, 1.09, False, 0.09),
        (Number(Tolerance(0.1)), 1.0, 1.2, True, 0.2),
        (Number(Tolerance(0, 0.01)), 200, 201.5, False, 1.5),
        (Number(Tolerance(0.1), "price"), {"price": 1.0}, {"price": None}, True, math.inf),
        (Number(), 1.0, math.nan, True, math.inf),
        (Vector(), [1.0, 0.0], [2.0, 0.001], False, 0),
        (Vector(0.9), [1.0, 0.0], [1.0, 1.0], True, 1 - math.sqrt(0.5)),
        (Vector(field="embeddings"), {"embeddings": [[1.0, 2.0]]}, {"embeddings": [[-1.0, -2.0]]}, True, 2),
        (Vector(), [1.0, 0.0], [1.0], True, math.inf),
        (Vector(), [1.0, 0.0], "no", True, math.inf),
        (Vector(), [0.0, 0.0], [0.0, 0.0], False, 0),
        (Vector(), [1.0, 0.0], [math.inf, 0.0], True, 1),
        (Text(), "same", "same", False, 0),
        (Text(), "same", "some", True, math.inf),
        (Text(0.3), "same", "some", False, 0.25),
        (Text(0.2), "same", "some", True, 0.25),
        (Text(0.2), "same", None, True, math.inf),
        (Json(Tolerance(0.01)), SEVEN, {**SEVEN, "probabilities": [0.0, 0.1, 0.205, 0.695]}, False, 0),
        (Json(Tolerance(0.01)), SEVEN, ONE, True, math.inf),
    ],
)
def test_answers_agree_or_differ(
    comparator: Comparator, stable: Any, other: Any, differs: bool, distance: float
) -> None:
    comparison = comparator(stable, other)
    assert comparison.differs is differs
    assert comparison.distance == pytest.approx(distance, abs=1e-6)
    assert bool(comparison.about) is differs


@pytest.mark.parametrize(
    ("comparator", "stable"),
    [(Label(), {}), (Label(), 7.5), (TopK(), {"label": "7"}), (Number(), "7"), (Number(), True), (Vector(), SEVEN),
     (Vector(field="label"), SEVEN), (Text(), SEVEN)],
)  # fmt: skip
def test_the_wrong_comparator_says_what_it_needs(comparator: Comparator, stable: Any) -> None:
    with pytest.raises(NotComparable, match=r"stable's answer .* name (its|their) field|stable's answer"):
        comparator(stable, stable)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "json": st.recursive(st.none() | st.booleans() | st.floats(-1e9, 1e9) | st.text(), st.lists, max_leaves=8),
    "label": st.fixed_dictionaries({"label": st.text() | st.integers()}),
    "top_k": st.fixed_dictionaries({"probabilities": st.lists(st.floats(0, 1), min_size=1)}),
    "number": st.floats(-1e300, 1e300),
    "vector": st.lists(st.floats(-1e100, 1e100), min_size=1),
    "text": st.text(),
}


@pytest.mark.parametrize("name", COMPARATORS)
def test_every_answer_equals_itself(name: str) -> None:
    @given(VALUES[name])
    def check(value: Any) -> None:
        comparison = COMPARATORS[name]()(value, value)
        assert not comparison.differs, comparison.about

    check()


def test_the_form_of_an_answer_chooses_its_comparator() -> None:
    tolerance = Tolerance(0.5)
    chosen = [comparator_for(answer, tolerance) for answer in (SEVEN, "text", 1.5, 3, True, [1.0], {"a": 1})]
    numbers, others = Number(tolerance), Json(tolerance)
    assert chosen == [Label(), Text(), numbers, numbers, others, others, others]


def slow_distance(first: str, second: str) -> int:
    """The whole table."""
    row = list(range(len(second) + 1))
    for number, a in enumerate(first, start=1):
        before, row = row, [number]
        for place, b in enumerate(second, start=1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (a != b)))
    return row[-1]


@given(WORDS, WORDS)
def test_edits_are_those_of_the_whole_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == slow_distance(first, second) == edit_distance(second, first)


@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(first: str, second: str, third: str) -> None:
    assert edit_distance(first, third) <= edit_distance(first, second) + edit_distance(second, third)
    assert (edit_distance(first, second) == 0) == (first == second)
    assert 0 <= edited_share(first, second) <= 1


def test_long_texts_are_compared_too() -> None:
    text = "the quick brown fox " * 500
    assert edit_distance(text, text.replace("fox", "dog")) == 1000
    assert edited_share("", "") == 0
