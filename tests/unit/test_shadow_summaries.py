"""Two answers are compared by what records say of them: by label, and by every comparator, whole or summed up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Tolerance
from tsctl.shadow.comparators import NotComparable
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

NUMBER = Summary(score=1.0, outputs={"price": 1.0}, rest_digest="r", answer_digest="a")
SCORES = Summary(scores=[0.1, 0.7, 0.2], score=0.7, norm=0.735, lists=["p"], rest_digest="r", answer_digest="a")
TEXT = Summary(text_digest="t", rest_digest="r", answer_digest="a")
VECTOR = Summary(norm=2.0, sketch=[1.0, 2.0, 3.0], lists=["v"], rest_digest="r", answer_digest="a")
WHOLE = Summary(answer={"price": 1.0, "text": "hello", "top": [3, 2, 1]}, is_whole=True, answer_digest="a")
LABELLED = Summary(label="cat", outputs={"score": 0.9}, rest_digest="r", answer_digest="a")
OLD: dict[str, Any] = {"rest_digest": None}


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
        (None, NUMBER, other(NUMBER, rest_digest="s"), True),
        (None, NUMBER, other(NUMBER, outputs={"price": 1.004}, rest_digest="s"), True),
        (None, VECTOR, other(VECTOR, rest_digest="s"), True),
        (None, VECTOR, other(VECTOR, lists=["w"], rest_digest="s"), True),
        (None, replace(NUMBER, **OLD), other(NUMBER, outputs={"price": 1.02}, **OLD), True),
        (None, Summary(answer_digest="a"), Summary(answer_digest="b"), True),
        (None, Summary(answer_digest="a"), Summary(answer_digest="a"), False),
        (None, WHOLE, other(WHOLE, answer={**WHOLE.answer, "price": 1.001}), False),
        (None, WHOLE, other(WHOLE, answer={**WHOLE.answer, "text": "hallo"}), True),
        (CompareOptions("label"), LABELLED, other(LABELLED, label="dog"), True),
        (CompareOptions("top_k", k=2), SCORES, other(SCORES, scores=[0.15, 0.3, 0.55]), False),
        (CompareOptions("top_k", k=1), SCORES, other(SCORES, scores=[0.15, 0.3, 0.55]), True),
        (CompareOptions("top_k", "p", k=1), SCORES, other(SCORES, scores=[0.15, 0.3, 0.55]), True),
        (CompareOptions("top_k", "p", k=1), SCORES, other(SCORES, lists=["q"]), True),
        (CompareOptions("vector", "v"), VECTOR, other(VECTOR, sketch=[3.0, 2.0, 1.0]), True),
        (CompareOptions("vector", "v"), VECTOR, other(VECTOR, lists=["v", "w"]), True),
        (CompareOptions("length", "price"), NUMBER, other(NUMBER, outputs={"price": 3.0}), True),
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
    ("options", "stable", "shadow", "message"),
    [
        (CompareOptions("label"), NUMBER, {}, "classify"),
        (CompareOptions("label", "kind"), LABELLED, {}, "answers: true"),
        (CompareOptions("top_k"), NUMBER, {}, "answers: true"),
        (CompareOptions("top_k"), SCORES, {}, "3 scores, and the best 5 are all of them: choose k of at most 2"),
        (CompareOptions("top_k", "q", k=1), SCORES, {}, "are of p, and not of 'q' alone: .*answers: true"),
        (CompareOptions("top_k", k=1), replace(SCORES, lists=["ids", "p"]), {}, r"several lists .*\(ids, p\)"),
        (CompareOptions("number"), TEXT, {}, "answers: true"),
        (CompareOptions("vector"), NUMBER, {}, "answers: true"),
        (CompareOptions("vector", "no.such"), VECTOR, {}, "are of v, and not of 'no.such' alone: .*answers: true"),
        (CompareOptions("vector", "v"), replace(VECTOR, lists=["ids", "v"]), {}, "are of ids, v"),
        (CompareOptions("vector", "v"), replace(VECTOR, lists=None), {}, "do not say of which lists"),
        (CompareOptions("length", "nosuch"), NUMBER, {}, "no number in 'nosuch'"),
        (CompareOptions("text"), NUMBER, {}, "answers: true"),
        (CompareOptions("text", most=0.1), TEXT, {}, "answers: true"),
        (CompareOptions(), NUMBER, {"rest_digest": "s", "rest_has_fractions": True}, "nested ones: .*answers: true"),
        (CompareOptions(), replace(NUMBER, rest_has_fractions=True), {"rest_digest": "s"}, "nested ones"),
        (CompareOptions("json"), replace(NUMBER, **OLD), {}, "do not say whether beyond the tolerance"),
        (CompareOptions(), NUMBER, OLD, "do not say whether beyond the tolerance"),
    ],
)
def test_what_the_records_lack_is_said(
    options: CompareOptions, stable: Summary, shadow: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotComparable, match=message):
        SummaryComparator(options)(stable, other(stable, **shadow))


@pytest.mark.parametrize("summary", [NUMBER, SCORES, TEXT, VECTOR, WHOLE, LABELLED, Summary(answer_digest="abc")])
def test_every_answer_has_a_text_for_the_table_of_examples(summary: Summary) -> None:
    assert 0 < len(summary.text) <= 200
