"""Two answers are compared by what records say of them: by label, and by every comparator, whole or summed up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Tolerance
from tsctl.shadow.comparators import NotComparable
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

NUMBER = Summary(score=1.0, outputs={"price": 1.0}, answer_digest="a")
SCORES = Summary(scores=[0.1, 0.7, 0.2], score=0.7, norm=0.735, answer_digest="a")
TEXT = Summary(text_digest="t", answer_digest="a")
VECTOR = Summary(norm=2.0, sketch=[1.0, 2.0, 3.0], answer_digest="a")
WHOLE = Summary(answer={"price": 1.0, "text": "hello", "top": [3, 2, 1]}, is_whole=True, answer_digest="a")
LABELLED = Summary(label="cat", outputs={"score": 0.9}, answer_digest="a")


def other(summary: Summary, **changes: Any) -> Summary:
    return replace(summary, answer_digest="b", **changes)


@pytest.mark.parametrize(
    ("options", "stable", "shadow", "differs"),
    [
        (None, LABELLED, other(LABELLED, outputs={"score": 0.1}), False),
        (None, LABELLED, other(LABELLED, label="dog"), True),
        (None, LABELLED, other(LABELLED, label=None), True),
        (None, NUMBER, other(NUMBER, outputs={"price": 1.004}), False),
        (None, NUMBER, other(NUMBER, outputs={"price": 1.02}), True),
        (None, NUMBER, other(NUMBER, outputs={}), True),
        (None, SCORES, other(SCORES, scores=[0.1, 0.6, 0.3]), True),
        (None, SCORES, other(SCORES, scores=[0.101, 0.699, 0.2]), False),
        (None, TEXT, other(TEXT, text_digest="u"), True),
        (None, VECTOR, other(VECTOR, sketch=[1.0, 2.0, 3.001]), False),
        (None, VECTOR, other(VECTOR, sketch=[3.0, 2.0, 1.0]), True),
        (None, VECTOR, other(VECTOR, norm=2.5), True),
        (None, VECTOR, other(VECTOR, sketch=None), True),
        (None, Summary(answer_digest="a"), Summary(answer_digest="b"), True),
        (None, Summary(answer_digest="a"), Summary(answer_digest="a"), False),
        (None, WHOLE, other(WHOLE, answer={**WHOLE.answer, "price": 1.001}), False),
        (None, WHOLE, other(WHOLE, answer={**WHOLE.answer, "text": "hallo"}), True),
        (CompareOptions("label"), LABELLED, other(LABELLED, label="dog"), True),
        (CompareOptions("top_k", k=2), SCORES, other(SCORES, scores=[0.15, 0.3, 0.55]), False),
        (CompareOptions("top_k", k=1), SCORES, other(SCORES, scores=[0.15, 0.3, 0.55]), True),
        (CompareOptions("number"), NUMBER, other(NUMBER, score=2.0), True),
        (CompareOptions("number", field="price"), NUMBER, other(NUMBER, outputs={"price": 1.0}), False),
        (CompareOptions("vector", least=0.5), VECTOR, other(VECTOR, sketch=[3.0, 2.0, 1.0]), False),
        (CompareOptions("vector"), SCORES, other(SCORES, scores=[0.7, 0.1, 0.2]), True),
        (CompareOptions("text"), TEXT, other(TEXT, text_digest="u"), True),
        (CompareOptions("text", "text", most=0.3), WHOLE, other(WHOLE, answer={"text": "hallo"}), False),
        (CompareOptions("number", "price"), WHOLE, other(WHOLE, answer={"price": 3.0}), True),
        (CompareOptions("json"), WHOLE, other(WHOLE, answer={"price": 1.0}), True),
        (CompareOptions("json"), LABELLED, other(LABELLED, outputs={"score": 0.1}), True),
        (CompareOptions("top_k", "top", k=1), WHOLE, other(WHOLE, answer={"top": [1, 2, 3]}), True),
        (CompareOptions("vector", "top"), WHOLE, other(WHOLE, answer={"top": [3, 2, 1.001]}), False),
    ],
)
def test_answers_are_compared_by_their_records(
    options: CompareOptions | None, stable: Summary, shadow: Summary, differs: bool
) -> None:
    comparator = SummaryComparator(options or CompareOptions(), Tolerance(0.01, 0.0))
    assert comparator(stable, shadow).differs is differs
    assert not comparator(stable, stable).differs


@pytest.mark.parametrize(
    ("options", "stable"),
    [
        (CompareOptions("label"), NUMBER),
        (CompareOptions("label", "kind"), LABELLED),
        (CompareOptions("top_k"), NUMBER),
        (CompareOptions("number"), TEXT),
        (CompareOptions("vector"), NUMBER),
        (CompareOptions("text"), NUMBER),
        (CompareOptions("text", most=0.1), TEXT),
    ],
)
def test_what_the_records_lack_is_said(options: CompareOptions, stable: Summary) -> None:
    with pytest.raises(NotComparable, match=r"answers|classify"):
        SummaryComparator(options)(stable, other(stable))


@pytest.mark.parametrize("summary", [NUMBER, SCORES, TEXT, VECTOR, WHOLE, LABELLED, Summary(answer_digest="abc")])
def test_every_answer_has_a_text_for_the_table_of_examples(summary: Summary) -> None:
    assert 0 < len(summary.text) <= 200
