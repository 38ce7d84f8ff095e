"""Answers of two archives are compared alone, in batches and with themselves, and judged by a plain share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import Tolerance
from tsctl.archive.answers import BatchAnswer, BatchAnswers
from tsctl.compare.archives import ArchiveDiff, Named
from tsctl.compare.diff import (
    EXAMPLES,
    ChunkAnswers,
    Compared,
    Diff,
    batches_of,
    chunks,
    named_comparator,
    require_answered,
)
from tsctl.errors import AnalysisError, SpecError
from tsctl.shadow.comparators import Json, Label, Number, TopK, Vector
from tsctl.views.compare.diff import document, is_within, lines, verdict, write_diff


def answer(value: Any, status: int = 200) -> BatchAnswer:
    return BatchAnswer(status, value if isinstance(value, bytes) else json.dumps(value).encode())


def chunk(alone: Sequence[Any], batch: Sequence[Any] | None = None, again: Sequence[Any] | None = None) -> ChunkAnswers:
    """Answers of one archive: by default, it agrees with itself."""
    values = [each if isinstance(each, BatchAnswer) else answer(each) for each in alone]
    batched, repeated = (
        values if each is None else [one if isinstance(one, BatchAnswer) else answer(one) for one in each]
        for each in (batch, again)
    )
    return ChunkAnswers(values, [1.0] * len(values), repeated, batched, 0.5)


def label(name: str, score: float = 0.5) -> dict[str, Any]:
    return {"label": name, "score": score}


def diffed(old: ChunkAnswers, new: ChunkAnswers, **options: Any) -> Diff:
    diff = Diff(Tolerance(), **options)
    diff.seen([f"id-{number}" for number in range(len(old.alone))], old, new)
    return diff


def rates(diff: Diff) -> dict[str, tuple[int, int]]:
    return {kind.name: (rate.differing, rate.of) for kind, rate in diff.rates.items()}


def result_of(diff: Diff) -> ArchiveDiff:
    return ArchiveDiff(Named("toy", "1.0", "a" * 12), Named("toy", "2.0", "b" * 12), "4 requests of f", 4, diff)


def test_flips_are_judged_and_other_differences_are_counted_beside() -> None:
    old = chunk([label("a"), label("b"), label("c"), label("a")])
    new = chunk([label("a"), label("b", 0.75), label("d"), label("d")])
    diff = diffed(old, new)
    assert diff.comparator == Label()
    assert diff.rates[Compared.ALONE].share == 0.5
    assert (diff.values.differing, diff.values.of) == (3, 4)
    assert diff.flips == {("c", "d"): 1, ("a", "d"): 1}
    assert [(each.request, each.about) for each in diff.examples] == [
        ("id-2", "expected 'c', got 'd'"), ("id-3", "expected 'a', got 'd'"),
    ]  # fmt: skip
    assert "'score': 0.5" in diff.examples[0].old


def test_each_archive_is_compared_with_itself_too() -> None:
    old = chunk([1.0, 2.0], batch=[1.0, 2.5], again=[1.5, 2.0])
    new = chunk([1.0, 3.0], batch=[1.0, 2.5], again=[1.0, 3.0])
    assert rates(diffed(old, new)) == {
        "ALONE": (1, 2), "BATCH": (0, 2), "OLD_AGAIN": (1, 2), "OLD_BATCH": (1, 2), "NEW_AGAIN": (0, 2),
        "NEW_BATCH": (1, 2),
    }  # fmt: skip


def test_a_difference_only_in_batches_counts() -> None:
    diff = diffed(chunk([1.0, 2.0]), chunk([1.0, 2.0], batch=[1.0, 9.0]))
    assert (diff.rates[Compared.ALONE].differing, diff.disagreement) == (0, 0.5)
    assert not is_within(result_of(diff), 4999)
    assert is_within(result_of(diff), 5000)
    assert "differently from toy 1.0, in a batch (by number): that exceeds the limit of 0%" in verdict(
        result_of(diff), 0
    )


@pytest.mark.parametrize(
    ("old", "new", "differ"),
    [
        (answer({"title": "x"}, 422), answer({"title": "y"}, 422), False),
        (answer({"title": "x"}, 422), answer(1.0), True),
        (answer(1.0), answer({"title": "x"}, 500), True),
    ],
)
def test_refusals_agree_where_their_statuses_do(old: BatchAnswer, new: BatchAnswer, differ: bool) -> None:
    diff = diffed(chunk([1.0, old]), chunk([1.0, new]))
    assert diff.rates[Compared.ALONE].differing == differ
    assert [example.about for example in diff.examples] == [
        f"status {new.status} in place of {old.status}"
    ] * differ  # fmt: skip


def test_the_comparator_follows_the_first_prediction_and_not_a_refusal() -> None:
    refused = answer({"title": "no"}, 422)
    diff = diffed(chunk([refused, label("a")]), chunk([refused, label("a", 0.9)]))
    assert diff.comparator == Label()
    assert diff.rates[Compared.ALONE].differing == 0


def test_where_everything_is_refused_nothing_was_compared() -> None:
    diff = diffed(chunk([answer({}, 422), answer({}, 400)]), chunk([1.0, 1.0]))
    with pytest.raises(AnalysisError, match=r"toy 1\.0 refused all 2 requests \(1 with 400, 1 with 422\)"):
        require_answered(diff, "toy 1.0")


def test_an_answer_that_is_no_json_is_compared_as_text() -> None:
    diff = diffed(chunk([b"\xffold", b"{"]), chunk([b"\xffnew", b"{"]))
    assert diff.rates[Compared.ALONE].differing == 1


def test_examples_and_their_answers_are_few_and_short() -> None:
    many = 3 * EXAMPLES
    diff = diffed(chunk([{"y": "a" * 10_000}] * many), chunk([{"y": "b" * 10_000}] * many))
    assert len(diff.examples) == EXAMPLES
    assert max(len(example.old) for example in diff.examples) == 300


def test_a_comparator_that_does_not_fit_is_refused_with_the_request() -> None:
    with pytest.raises(SpecError, match=r"id-0: stable's answer has no label") as caught:
        diffed(chunk([{"y": 1.0}]), chunk([{"y": 1.0}]), comparator=Label())
    assert "--comparator" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "field", "comparator"),
    [
        ("json", "", Json(Tolerance(0.5))), ("label", "class", Label("class")), ("vector", "", Vector()),
        ("number", "y", Number(Tolerance(0.5), "y")), ("top_k", "", TopK()),
    ],
)  # fmt: skip
def test_a_comparator_can_be_named(name: str, field: str, comparator: Any) -> None:
    assert named_comparator(name, field, None, Tolerance(0.5)) == comparator
    assert named_comparator("top_k", "", 3, Tolerance()) == TopK(3)


@pytest.mark.parametrize(
    ("name", "field", "k", "message"),
    [("same", "", None, "there is none"), ("json", "y", None, "whole answers"), ("label", "", 2, "number of classes")],
)
def test_a_comparator_that_is_none_is_refused(name: str, field: str, k: int | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        named_comparator(name, field, k, Tolerance())


def values(answers: Iterable[BatchAnswer]) -> list[Any]:
    return [json.loads(each.body) for each in answers]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_answers_come_back_in_the_chunks_in_which_they_were_asked(size: int) -> None:
    count, asked = 5, 0
    batches = list(batches_of(5, size))

    def answers() -> Iterator[BatchAnswers]:
        nonlocal asked
        for batch in batches:
            asked += 1
            yield BatchAnswers(float(len(batch)), tuple(answer(place) for place in batch))

    found = list(chunks(answers(), count, size))
    assert asked == len(batches)
    in_order = list(range(count))
    assert values(chain.from_iterable(each.alone for each in found)) == in_order
    assert values(chain.from_iterable(each.again for each in found)) == in_order
    assert values(chain.from_iterable(each.batch or () for each in found)) == ([] if size == 1 else in_order)
    assert [each.batch is None for each in found] == [size == 1] * len(found)
    full = [each.batch_ms for each in found if each.batch_ms is not None]
    assert full == ([] if size == 1 else [1.0] * (count // size)), "a batch that is not full says nothing of full ones"


def test_the_result_is_shown_as_text_json_and_a_page_for_its_owner(tmp_path: Path) -> None:
    odd = "</td><script>x\x1b[31m"
    old, new = chunk([label("a"), label("b"), label(odd)]), chunk([label("a"), label("b"), label("c")])
    result = result_of(diffed(old, new))
    text = "\n".join(lines(result, 100))
    assert "toy 2.0 answered 1 of 3 requests (33.33%) differently from toy 1.0 (by label)" in text
    assert "exceeds the limit of 1%" in text
    assert "\x1b" not in text
    found = json.loads(json.dumps(document(result, 100), allow_nan=False))
    assert (found["is_within"], found["max_disagreement"], found["requests"]) == (False, 0.01, 3)
    assert found["rates"]["alone"]["differing"] == 1
    assert found["rates"]["alone"]["low"] < 1 / 3 < found["rates"]["alone"]["high"]
    assert found["flips"] == [{"old": odd, "new": "c", "requests": 1}]
    assert found["statuses"] == {"old": {"200": 3}, "new": {"200": 3}}
    assert found["latency_ms"]["old"] == {
        "alone": {"p50": 1.0, "p90": 1.0, "p99": 1.0, "most": 1.0},
        "in_batch": {"p50": 0.5, "p90": 0.5, "p99": 0.5, "most": 0.5},
    }
    page = tmp_path / "diff.html"
    write_diff(page, result, 100)
    html = page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    assert "<script" not in html and "&lt;script&gt;" in html
    assert 'class="outcome rolled-back"' in html
    with pytest.raises(AnalysisError, match="cannot be written"):
        write_diff(tmp_path / "none" / "diff.html", result, 100)


def test_an_unlimited_share_is_always_within() -> None:
    result = result_of(diffed(chunk([1.0, 2.0]), chunk([5.0, 6.0])))
    assert is_within(result, 10_000)
    assert not is_within(result, 9_999)
