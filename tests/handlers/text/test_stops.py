"""Stop sequences: nothing of one goes out, and nothing before one is kept back longer than needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.text.stops import Stops

TEXTS = st.text("abc", max_size=30)
SEQUENCES = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(TEXTS, SEQUENCES, st.integers(1, 5))
def test_what_goes_out_is_the_text_before_the_first_sequence(text: str, sequences: list[str], size: int) -> None:
    stops = Stops(sequences)
    out = ""
    for start in range(0, len(text), size):
        out += stops.feed(text[start : start + size])
        assert text.startswith(out)
    out += stops.end()
    places = [place for one in sequences if (place := text.find(one)) >= 0]
    assert stops.is_found == bool(places)
    assert out == (text[: min(places)] if places else text)


@given(TEXTS, SEQUENCES)
def test_only_what_may_become_a_sequence_waits(text: str, sequences: list[str]) -> None:
    stops = Stops(sequences)
    out = "".join(map(stops.feed, text))
    if not stops.is_found:
        assert len(text) - len(out) < max(map(len, sequences), default=1)


@pytest.mark.parametrize(
    ("sequences", "pieces", "expected"),
    [
        (["\n\n"], ["one\n", "\ntwo"], ["one", ""]),
        (["abcde", "c"], ["abc", "d", "x"], ["", "", "ab"]),
        (["abcde", "c"], ["abc", "d", "e"], ["", "", ""]),
        (["END"], ["EN", "D"], ["", ""]),
        (["END"], ["EN", "T"], ["", "ENT"]),
        ([], ["a", "b"], ["a", "b"]),
    ],
)
def test_piece_by_piece(sequences: list[str], pieces: list[str], expected: list[str]) -> None:
    stops = Stops(sequences)
    assert [stops.feed(piece) for piece in pieces] == expected


def test_nothing_goes_out_after_a_sequence() -> None:
    stops = Stops(["."])
    assert [stops.feed("a.b"), stops.feed("c"), stops.end()] == ["a", "", ""]


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="is empty"):
        Stops(["a", ""])
