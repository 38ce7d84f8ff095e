"""Texts are compared by the cosine of vectors that a model gave them; which texts it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.shadow_records import MODEL, SHADOW, STABLE, Asked, write
from tsctl.archive.embedded import MOST_PIECES, PIECE, pieces_of
from tsctl.records.database import Place
from tsctl.records.pairs import WAIT_S
from tsctl.rollout.decide.state import SHADOW_CURSOR, State
from tsctl.rollout.evidence.pairs import EMBED_READ_S, RecordedPairs
from tsctl.shadow.comparators import NotComparable
from tsctl.shadow.embedding import Embedding, texts_in, texts_to_embed
from tsctl.shadow.pairing import Answer, Track
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

VECTORS = {"Paris.": [1.0, 0.0], "It is Paris.": [0.9, 0.1], "Bananas.": [0.0, 1.0], "": [0.0, 0.0]}


def answer(*texts: str) -> dict[str, Any]:
    """As a record of a language model has it, in two pieces each."""
    return {"answers": [{"tokens": [text[:2], text[2:]], "finish": "stop"} for text in texts]}


@pytest.mark.parametrize(
    ("stable", "other", "differs", "distance"),
    [
        (answer("Paris."), answer("Paris."), False, 0.0),
        (answer("Paris."), answer("It is Paris."), False, 1 - 0.9 / math.hypot(0.9, 0.1)),
        (answer("Paris."), answer("Bananas."), True, 1.0),
        (answer("Paris.", "Bananas."), answer("Paris.", "Bananas."), False, 0.0),
        (answer("Paris.", "Paris."), answer("It is Paris.", "Bananas."), True, 1.0),
        (answer("Paris."), answer("Paris.", "Paris."), True, math.inf),
        (answer("Paris."), {"detail": "no answer"}, True, math.inf),
        (answer("Paris."), answer(""), True, 1.0),
        ("Paris.", "It is Paris.", False, 1 - 0.9 / math.hypot(0.9, 0.1)),
    ],
)
def test_the_worst_pair_of_texts_counts(stable: Any, other: Any, differs: bool, distance: float) -> None:
    found = Embedding(VECTORS)(stable, other)
    assert found.differs == bool(found.about) == differs
    assert found.distance == pytest.approx(distance)


def test_the_limit_and_the_place_of_the_text_are_the_archives() -> None:
    stable, other = {"result": {"text": "Paris."}}, {"result": {"text": "It is Paris."}}
    assert not Embedding(VECTORS, field="result.text")(stable, other).differs
    strict = Embedding(VECTORS, 0.999, "result.text")(stable, other)
    assert strict.differs
    assert strict.about == "a cosine of 0.99, at least 0.999 is expected"
    for wrong in ({"number": 1}, {"text": 5}):
        with pytest.raises(NotComparable, match="stable's answer has no text in 'text'"):
            Embedding(VECTORS, field="text")(wrong, other)
    with pytest.raises(NotComparable, match="has no text: 5"):
        Embedding(VECTORS)(5, 5)


def test_only_texts_that_differ_are_embedded_each_once() -> None:
    pairs = [
        (answer("a"), answer("a")),
        (answer("b", "same"), answer("c", "same")),
        (answer("b"), answer("d")),
        (answer("x"), answer("x", "y")),  # differs in any case
        (5, "z"),
    ]
    assert texts_to_embed(pairs) == ["b", "c", "d"]
    assert texts_in({"text": "t"}, "text") == ["t"]
    assert texts_in(answer("t"), "answers") is None


def of(text: str, status: int = 200, **changes: Any) -> Answer:
    whole = Summary(answer=answer(text), is_whole=True, answer_digest=text)
    return Answer("id", Track.STABLE, replace(whole, **changes), status)


def test_a_comparator_of_records_asks_for_whole_answers_and_says_which_are_missing() -> None:
    comparator = SummaryComparator(CompareOptions("embedding"))
    digest: dict[str, Any] = {"answer": None, "is_whole": False}
    pairs = [(of("Paris."), of("Bananas.")), (of("Paris."), of("x", 500)), (of("Paris.", **digest), of("y"))]
    assert comparator.embeds
    assert comparator.to_embed(pairs) == ["Paris.", "Bananas."]
    assert SummaryComparator(CompareOptions("text")).to_embed(pairs) == []
    ready = comparator.with_vectors(VECTORS)
    assert ready(of("Paris.").value, of("Bananas.").value).differs
    assert not ready(of("Paris.", **digest).value, of("Paris.", **digest).value).differs, "equal digests, equal texts"
    for stable, shadow, whose in (({}, digest, "the shadow's"), (digest, {}, "stable's")):
        with pytest.raises(NotComparable, match=rf"{whose} records have digests.*answers: true"):
            ready(of("Paris.", **stable).value, of("Bananas.", **shadow).value)


def test_no_model_is_asked_where_whole_answers_of_engines_are_compared() -> None:
    compare = SummaryComparator(CompareOptions("embedding")).of_values()
    assert compare(answer("a"), answer("b")).differs
    assert not compare(answer("a"), answer("a")).differs


def test_long_texts_are_cut_at_white_space_and_no_text_is_without_end() -> None:
    words = " ".join(f"word{number}" for number in range(300))
    pieces = list(pieces_of(f"  {words}\n"))
    assert " ".join(pieces) == words
    assert max(map(len, pieces)) <= PIECE
    assert list(pieces_of("x" * (PIECE + 5))) == ["x" * PIECE, "x" * 5]
    assert len(list(pieces_of("y" * PIECE * 50))) == MOST_PIECES
    assert list(pieces_of(" \n ")) == []


def test_a_rollout_embeds_the_pairs_of_a_minute_at_a_time(tmp_path: Path) -> None:
    begin = 1_764_150_000.0
    stable, shadow, again = ({"answer": answer(text)} for text in ("Paris.", "Bananas.", "It is Paris."))
    times = (1.0, EMBED_READ_S - 1, EMBED_READ_S + 1)
    made = [Asked(f"id-{at}", stable, shadow, again, at) for at in times]
    write(tmp_path, made, begin)
    asked: list[list[str]] = []

    def ready(comparator: SummaryComparator, pairs: Iterable[tuple[Answer, Answer]]) -> SummaryComparator:
        asked.append(comparator.to_embed(pairs))
        return comparator.with_vectors(VECTORS)

    now = begin + WAIT_S + EMBED_READ_S - 1
    pairs = RecordedPairs(
        lambda: [Place("one", str(tmp_path))],
        lambda: SummaryComparator(CompareOptions("embedding")),
        ready,
        lambda: now,
    )
    state = cast(State, SimpleNamespace(
        cursor={SHADOW_CURSOR: round(begin * 1e6)}, model=MODEL, stable=STABLE, canary=SHADOW
    ))  # fmt: skip
    assert pairs.read(state) is None, "a minute is not over"
    now += 100
    first = pairs.read(state)
    assert first is not None
    assert (first.cursor[SHADOW_CURSOR], first.waited_s) == (round((begin + EMBED_READ_S) * 1e6), EMBED_READ_S)
    assert len(first.examples) == 2
    assert asked == [["Paris.", "Bananas.", "It is Paris."]]
