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
    Comparison,
    Json,
    Label,
    Length,
    NotComparable,
    Number,
    Text,
    Tokens,
    TopK,
    Vector,
    comparator_for,
)
from tsctl.shadow.edits import edit_distance, edited_share
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

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
     (Vector(field="label"), SEVEN), (Text(), SEVEN), (TopK(4), SEVEN), (TopK(1, field=""), [0.5]),
     (TopK(2, field=""), {"a": 0.9, "b": 0.1}), (TopK(3, field=""), [{"label": "a"}, {"label": "b"}])],
)  # fmt: skip
def test_the_wrong_comparator_says_what_it_needs(comparator: Comparator, stable: Any) -> None:
    with pytest.raises(NotComparable, match=r"stable's answer .* name (its|their) field|stable's answer"):
        comparator(stable, stable)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "json": st.recursive(st.none() | st.booleans() | st.floats(-1e9, 1e9) | st.text(), st.lists, max_leaves=8),
    "label": st.fixed_dictionaries({"label": st.text() | st.integers()}),
    "top_k": st.fixed_dictionaries({"probabilities": st.lists(st.floats(0, 1), min_size=6)}),
    "number": st.floats(-1e300, 1e300),
    "vector": st.lists(st.floats(-1e100, 1e100), min_size=1),
    "text": st.text(),
    "tokens": st.lists(st.tuples(st.lists(st.text()), st.sampled_from(["stop", "length"])), min_size=1).map(
        lambda answers: texts(*answers)
    ),
    "length": st.fixed_dictionaries({"answer_tokens": st.integers(0)}),
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


def texts(*answers: tuple[list[str], str]) -> dict[str, Any]:
    return {"answers": [{"tokens": tokens, "finish": finish} for tokens, finish in answers]}


FOUR = ["The ", "capital ", "is ", "Paris"]


@pytest.mark.parametrize(
    ("least", "other", "differs", "distance"),
    [
        (1.0, texts((FOUR, "stop")), False, 0.0),
        (1.0, texts((["The capital ", "is Paris"], "stop")), False, 0.0),  # other tokens, the same text
        (1.0, texts((FOUR, "length")), True, 0.0),
        (0.9, texts((FOUR, "length")), False, 0.0),
        (1.0, texts(([*FOUR[:3], "Lyon"], "stop")), True, 0.25),
        (0.75, texts(([*FOUR[:3], "Lyon"], "stop")), False, 0.25),
        (0.75, texts(([*FOUR[:2], "was ", "Paris"], "stop")), True, 0.5),
        (0.5, texts((FOUR[:1], "stop")), True, 0.75),
        (0.5, texts((FOUR * 2, "length")), False, 0.5),  # it goes on where stable ended
        (0.6, texts((FOUR * 2, "length")), True, 0.5),
        (1.0, {"choices": [{"message": {"content": "The capital is Paris"}, "finish_reason": "stop"}]}, False, 0.0),
        (0.5, texts((FOUR, "stop"), (FOUR, "stop")), True, math.inf),
        (0.5, {"status": 500}, True, math.inf),
    ],
)
def test_tokens_agree_up_to_the_first_difference(least: float, other: Any, differs: bool, distance: float) -> None:
    found = Tokens(least)(texts((FOUR, "stop")), other)
    assert (found.differs, found.distance) == (differs, distance)
    assert bool(found.about) == differs


def test_of_several_texts_the_one_that_agrees_least_counts() -> None:
    stable = texts((FOUR, "stop"), (FOUR, "stop"))
    found = Tokens(0.8)(stable, texts((FOUR, "stop"), ([*FOUR[:2], "was "], "stop")))
    assert (found.differs, found.distance) == (True, 0.5)
    assert Tokens()(texts(([], "stop")), texts(([], "stop"))) == Comparison(False)
    with pytest.raises(NotComparable, match="no texts of a language model"):
        Tokens()({"label": "7"}, texts((FOUR, "stop")))


@pytest.mark.parametrize(
    ("most", "tokens", "differs", "distance"),
    [(0.0, 40, False, 0.0), (0.0, 41, True, 1 / 41), (0.2, 50, False, 0.2), (0.2, 31, True, 9 / 40)],
)
def test_lengths_agree_within_a_share_of_the_longer_one(
    most: float, tokens: int, differs: bool, distance: float
) -> None:
    found = Length(most)({"answer_tokens": 40}, {"answer_tokens": tokens})
    assert found.differs == differs
    assert found.distance == pytest.approx(distance)
    assert Length()({"answer_tokens": 0}, {"answer_tokens": 0}) == Comparison(False)
    assert Length()({"answer_tokens": 4}, {}).distance == math.inf


def test_records_of_texts_are_compared_by_their_columns_or_as_a_whole() -> None:
    stable, other = (
        Summary(outputs={"answer_tokens": tokens}, text_digest=digest, answer_digest=digest)
        for tokens, digest in ((40.0, "a"), (30.0, "b"))
    )
    assert SummaryComparator(CompareOptions("length", most=0.25))(stable, other).differs is False
    assert SummaryComparator(CompareOptions("length", most=0.2))(stable, other).differs
    assert SummaryComparator(CompareOptions("text"))(stable, other).differs
    with pytest.raises(NotComparable, match="answers: true"):
        SummaryComparator(CompareOptions("tokens"))(stable, other)
    whole = [
        Summary(answer=texts((tokens, "stop")), is_whole=True, answer_digest=str(tokens))
        for tokens in (FOUR, [*FOUR[:3], "Lyon"])
    ]
    assert SummaryComparator(CompareOptions("tokens"))(*whole).differs
    assert SummaryComparator(CompareOptions("tokens", least=0.5))(*whole).differs is False
