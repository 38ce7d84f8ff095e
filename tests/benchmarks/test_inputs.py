"""Generated requests are the same in every run, and are what their workload says of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.wrk import write_script
from benchmarks.workloads.cached import missed_share, rows
from benchmarks.workloads.inputs import AROUND, BLOCK, WORDS, mixed_lengths, repeated, sentences


def letters_of_five(word: str) -> int:
    """A tokenizer of the test: a token for every five letters that a word has begun."""
    return -(-len(word) // 5)


@given(count=st.integers(1, 400), share=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_exactly_the_share_was_sent_before(count: int, share: float, seed: int) -> None:
    sent = repeated(count, share, seed)
    new = [number for position, number in enumerate(sent) if number not in sent[:position]]
    assert new == list(range(len(new))), "new inputs are numbered in their order"
    assert count - len(new) == min(round(share * count), count - 1)


def test_of_four_thousand_two_fifths_are_repeats() -> None:
    assert len(set(repeated(4000, 0.4, 11))) == 2400


def test_repeats_follow_zipf() -> None:
    sent = Counter(repeated(20_000, 0.5, 1))
    again = [sent[number] - 1 for number in range(8)]
    assert again[0] > 1.5 * again[1] > 0
    assert again[1] > 1.4 * again[3]
    assert again[3] > 1.4 * again[7]


def test_equal_seeds_give_equal_traffic_and_others_do_not() -> None:
    assert repeated(500, 0.4, 1) == repeated(500, 0.4, 1) != repeated(500, 0.4, 2)
    assert mixed_lengths(128, 4, 128, 1) == mixed_lengths(128, 4, 128, 1) != mixed_lengths(128, 4, 128, 2)


def test_lengths_cover_the_range_evenly_over_their_logarithms() -> None:
    lengths = mixed_lengths(512, 4, 128, 20)
    assert (min(lengths), max(lengths), len(lengths)) == (4, 128, 512)
    octaves = Counter(length.bit_length() for length in lengths if length < 128)
    assert all(90 <= octaves[bits] <= 115 for bits in (3, 4, 5, 6, 7)), octaves


def test_every_block_is_as_long_as_any_other() -> None:
    lengths = mixed_lengths(512, 4, 128, 20)
    sums = [sum(lengths[begin : begin + BLOCK]) for begin in range(0, 512, BLOCK)]
    assert max(sums) < 1.1 * min(sums)
    assert lengths[:BLOCK] != sorted(lengths[:BLOCK])


def test_sentences_have_the_lengths_that_were_asked_for() -> None:
    lengths = mixed_lengths(64, 4, 128, 3)
    made = sentences(lengths, letters_of_five, 3)
    assert [sum(map(letters_of_five, text.split())) + AROUND for text in made] == lengths
    assert len(set(made)) > 60
    assert set(" ".join(made).split()) <= set(WORDS)
    assert made == sentences(lengths, letters_of_five, 3)


def test_rows_differ_where_their_numbers_or_rounds_do() -> None:
    first = rows([0, 1, 0], 0)
    assert first[0] == first[2] != first[1]
    assert not set(first) & set(rows([0, 1, 0], 1))


def test_the_missed_share_is_of_answers_that_are_no_hit() -> None:
    assert missed_share(Counter(hit=40, miss=50, bypass=10, failed=7)) == 0.6
    assert missed_share(Counter(failed=3)) == 1.0
    with pytest.raises(ValueError, match="2 answers have no header x-cache"):
        missed_share(Counter({"": 2, "hit": 5}))


def test_the_script_for_wrk_is_private_and_carries_any_bytes(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wrk")
    script = write_script(folder, {"Authorization": "Bearer secret"}, [b"\x89PNG\n'\"\0", b"{}"])
    assert script.stat().st_mode & 0o077 == 0
    assert bytes.fromhex((folder / "bodies.hex").read_text().split()[0]) == b"\x89PNG\n'\"\0"
    assert "function request()" in script.read_text()
    assert "function request()" not in write_script(folder, {}, [b"{}"]).read_text(), (
        "wrk repeats one request by itself"
    )
