"""Answers find their partner by request; each one without is counted once, and memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.shadow.pairing import Answer, Pair, Pairing, Track, Unpaired

STABLE, SHADOW = Track.STABLE, Track.SHADOW


def answer(request: object, track: Track, value: object = None) -> Answer:
    return Answer(str(request), track, value)


@pytest.mark.parametrize("tracks", [(STABLE, SHADOW), (SHADOW, STABLE)])
def test_both_answers_make_a_pair_in_either_order(tracks: tuple[Track, Track]) -> None:
    pairing = Pairing()
    first, second = (answer(1, track) for track in tracks)
    assert pairing.add(first, 0) is None
    assert pairing.waiting == 1
    pair = pairing.add(second, 1)
    assert pair == Pair(answer(1, STABLE), answer(1, SHADOW))
    assert (pairing.waiting, pairing.pairs, pairing.paired_share) == (0, 1, 1.0)
    assert not pairing.unpaired


def test_an_answer_without_a_partner_is_given_up_in_time_and_a_late_one_is_counted() -> None:
    pairing = Pairing(wait_s=10)
    pairing.add(answer("a", STABLE), 0)
    pairing.add(answer("b", SHADOW), 5)
    pairing.give_up(9.9)
    assert pairing.waiting == 2
    pairing.give_up(10)
    assert pairing.unpaired == {Unpaired.NO_SHADOW: 1}
    assert pairing.add(answer("a", SHADOW), 11) is None
    assert pairing.add(answer("a", SHADOW), 12) is None
    pairing.give_up(15)
    assert pairing.unpaired == {
        Unpaired.NO_SHADOW: 1, Unpaired.LATE: 1, Unpaired.DUPLICATE: 1, Unpaired.NO_STABLE: 1,
    }  # fmt: skip
    assert pairing.paired_share == 0


def test_the_first_of_two_answers_of_one_version_counts() -> None:
    pairing = Pairing()
    pairing.add(answer(1, STABLE, "first"), 0)
    assert pairing.add(answer(1, STABLE, "second"), 0) is None
    pair = pairing.add(answer(1, SHADOW), 0)
    assert pair is not None
    assert pair.stable.value == "first"
    for track in Track:
        assert pairing.add(answer(1, track), 0) is None
    assert pairing.unpaired == {Unpaired.DUPLICATE: 3}


def test_the_longest_wait_makes_room() -> None:
    pairing = Pairing(most=2)
    for request in range(3):
        pairing.add(answer(request, STABLE), request)
    assert pairing.unpaired == {Unpaired.NO_ROOM: 1}
    assert pairing.add(answer(0, SHADOW), 3) is None  # late
    assert pairing.add(answer(2, SHADOW), 3) is not None
    assert pairing.paired_share == 0.5


ANSWERS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(Track), st.floats(0, 3)), max_size=120)


@given(ANSWERS, st.integers(1, 8))
def test_each_answer_is_counted_once_and_memory_is_bounded(answers: list[tuple[int, Track, float]], most: int) -> None:
    pairing, now_s, pairs = Pairing(wait_s=5, most=most), 0.0, []
    for request, track, passed_s in answers:
        now_s += passed_s
        if pair := pairing.add(answer(request, track), now_s):
            pairs.append(pair)
            assert (pair.stable.track, pair.shadow.track) == (STABLE, SHADOW)
            assert pair.stable.request_id == pair.shadow.request_id
        assert pairing.waiting <= most
        assert len(pairing._remembered) <= most
    assert pairing.pairs == len(pairs)
    assert 2 * pairing.pairs + pairing.waiting + sum(pairing.unpaired.values()) == len(answers)


def test_a_pairing_needs_time_and_room() -> None:
    for settings in ({"wait_s": 0.0}, {"most": 0}):
        with pytest.raises(ValueError, match="needs"):
            Pairing(**settings)
    assert Pairing().paired_share is None
