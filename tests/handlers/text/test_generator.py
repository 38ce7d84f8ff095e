"""Who gets a place, who waited too long, and what becomes of the rest when one answer fails; on a scripted backend."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.errors import DeadlinePassed, DoesNotFit, ModelFailed, RequestError, Unavailable
from handlers.text.answer import Answer, Piece
from handlers.text.backend import LENGTH, STOP, Backend
from handlers.text.generator import Delivery, Generator
from handlers.text.sampling import Sampling
from tests.support.scripted import POISON, Scripted


class Site:
    """A generator, and what its answers got."""

    def __init__(self, most: int = 8) -> None:
        self.backend = Scripted()
        backend: Backend = self.backend
        self.deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.generator = Generator(backend, most, self.deliveries.put)
        self.pieces: dict[int, list[Piece]] = {}

    def answer(self, text: bytes, most: int = 100, **more: Any) -> Answer:
        return Answer(list(text), Sampling(most), **more)

    def collect(self, *answers: Answer) -> list[tuple[str, str | type[RequestError]]]:
        """The text of each answer, and how it ended, when all have."""
        ends: dict[int, str | type[RequestError]] = {}
        while not all(id(answer) in ends for answer in answers):
            for answer, piece in self.deliveries.get(timeout=30):
                assert id(answer) not in ends, "a piece after the end"
                self.pieces.setdefault(id(answer), []).append(piece)
                if piece.finish or piece.error:
                    ends[id(answer)] = type(piece.error) if piece.error else piece.finish
        return [("".join(piece.text for piece in self.pieces[id(answer)]), ends[id(answer)]) for answer in answers]


def until_begun(*answers: Answer) -> None:
    end = time.monotonic() + 30
    while not all(answer.tokens for answer in answers):
        assert time.monotonic() < end, "no first token"
        time.sleep(0.001)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.backend.free()
    made.generator.close()
    assert made.backend.is_closed


def test_answers_join_and_leave_between_steps(site: Site) -> None:
    answers = [site.answer(text) for text in (b"abc", b"x", "é".encode())]
    site.generator.submit(*answers)
    assert site.collect(*answers) == [("abc", STOP), ("x", STOP), ("é", STOP)]
    assert [len(keys) for keys in site.backend.steps] == [3, 3, 2, 1]
    assert site.generator.in_hand == 0
    assert all(answer.first_at and answer.ended_at and answer.submitted_at <= answer.first_at for answer in answers)
    assert [answer.tokens for answer in answers] == [4, 2, 3]


def test_an_answer_ends_at_its_length_or_at_a_stop_sequence(site: Site) -> None:
    answers = [site.answer(b"abcd", 2), site.answer(b"ab--cd", stops=["--"]), site.answer(b"a-", stops=["--"])]
    site.generator.submit(*answers)
    assert site.collect(*answers) == [("ab", LENGTH), ("ab", STOP), ("a-", STOP)]
    assert site.backend.answers == {}, "what ended at a stop sequence gave its place back"


def test_what_does_not_fit_is_refused_and_begins_nothing(site: Site) -> None:
    with pytest.raises(DoesNotFit, match="empty"):
        site.generator.submit(site.answer(b"a"), site.answer(b""))
    with pytest.raises(DoesNotFit, match="10 tokens, and the model reads 10"):
        site.generator.submit(site.answer(b"0123456789"))
    assert site.generator.in_hand == 0


def test_what_the_backend_cannot_do_fails_alone(site: Site) -> None:
    other = site.answer(b"ok")
    asked = Answer(list(b"a"), Sampling(5, json_schema="{}"))
    site.generator.submit(asked, other)
    assert site.collect(asked, other) == [("", DoesNotFit), ("ok", STOP)]


def test_beyond_the_most_it_refuses_at_once_all_or_none(site: Site) -> None:
    site.backend.hold()
    held = [site.answer(b"a") for _ in range(7)]
    site.generator.submit(*held)
    with pytest.raises(Unavailable, match="7 answers are in the making, and 8 may be"):
        site.generator.submit(site.answer(b"b"), site.answer(b"c"))
    last = site.answer(b"d")
    site.generator.submit(last)
    site.backend.free()
    assert {end for _, end in site.collect(*held, last)} == {STOP}


def test_a_cancelled_answer_gives_its_place_back_and_gets_nothing_more(site: Site) -> None:
    site.backend.hold()
    left, stays = site.answer(b"abcdef"), site.answer(b"xyz")
    site.generator.submit(left, stays)
    site.generator.cancel([left])
    site.generator.cancel([left])  # twice does no harm
    site.backend.free()
    assert site.collect(stays) == [("xyz", STOP)]
    assert left.has_ended and site.generator.in_hand == 0
    assert len(site.pieces.get(id(left), [])) <= 1


def test_one_that_is_late_for_its_first_token_or_its_end_fails_and_the_others_go_on(site: Site) -> None:
    site.backend.hold()
    begin = time.monotonic()
    answers = [
        site.answer(b"abc", first_by=begin),
        site.answer(b"abc", deadline=begin),
        site.answer(b"abc", first_by=begin + 60, deadline=begin + 60),
    ]
    site.generator.submit(*answers)
    site.backend.free()
    assert site.collect(*answers) == [("", DeadlinePassed), ("", DeadlinePassed), ("abc", STOP)]


def test_a_prompt_that_makes_a_step_fail_fails_alone(site: Site) -> None:
    site.backend.hold()
    texts = [b"abc", bytes([POISON]), b"de", bytes([1, POISON]), b"f"]
    answers = [site.answer(text) for text in texts]
    site.generator.submit(*answers)
    site.backend.free()
    assert site.collect(*answers) == [("abc", STOP), ("", ModelFailed), ("de", STOP), ("", ModelFailed), ("f", STOP)]


def test_answers_that_have_begun_go_on_beside_a_prompt_that_makes_a_step_fail(site: Site) -> None:
    site.backend.hold()
    first, poison = site.answer(b"abcdefg"), site.answer(bytes([POISON]))
    site.generator.submit(first)
    site.backend.allow(1)
    until_begun(first)
    site.generator.submit(poison)
    site.backend.free()
    assert site.collect(first, poison) == [("abcdefg", STOP), ("", ModelFailed)]


def test_a_step_that_fails_with_nothing_new_fails_all_and_the_next_answer_works(site: Site) -> None:
    site.backend.hold()
    answers = [site.answer(b"abc"), site.answer(b"de")]
    site.generator.submit(*answers)
    site.backend.allow(1)
    until_begun(*answers)
    site.backend.fails_now = True
    site.backend.free()
    assert site.collect(*answers) == [("a", ModelFailed), ("d", ModelFailed)]
    site.backend.fails_now = False
    later = site.answer(b"later")
    site.generator.submit(later)
    assert site.collect(later) == [("later", STOP)]


def test_what_has_not_ended_is_told_when_the_worker_ends() -> None:
    site = Site(most=2)
    site.backend.hold()
    answers = [site.answer(b"abcdef"), site.answer(b"abcdef")]
    site.generator.submit(*answers)
    closing = threading.Thread(target=site.generator.close)
    closing.start()
    while True:
        with pytest.raises(Unavailable) as refused:
            site.generator.submit(site.answer(b"a"))
        if "ends" in refused.value.detail:
            break
    site.backend.allow(1)  # the step that it is in
    assert {end for _, end in site.collect(*answers)} == {Unavailable}
    closing.join(30)
    assert site.backend.is_closed


def test_a_listener_that_fails_stops_nobody_else() -> None:
    got: list[Delivery] = []

    def deliver(delivery: Delivery) -> None:
        got.append(delivery)
        raise RuntimeError("the listener's own fault")

    generator = Generator(Scripted(), 4, deliver)
    answer = Answer(list(b"abc"), Sampling(10))
    generator.submit(answer)
    end = time.monotonic() + 30
    while not answer.has_ended:
        assert time.monotonic() < end
        time.sleep(0.001)
    generator.close()
    assert "".join(piece.text for delivery in got for _, piece in delivery) == "abc"


def test_a_backend_that_raises_where_it_must_not_ends_all_and_says_so() -> None:
    class Uncancellable(Scripted):
        def cancel(self, key: int) -> None:
            raise RuntimeError("no such key")

    backend, crashes = Uncancellable(), queue.SimpleQueue[Exception]()
    deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    generator = Generator(backend, 4, deliveries.put, on_crash=crashes.put)
    backend.hold()
    left, stays = Answer(list(b"abcdef"), Sampling(10)), Answer(list(b"xyz"), Sampling(10))
    generator.submit(left, stays)
    backend.allow(1)
    until_begun(left, stays)
    generator.cancel([left])
    backend.free()
    assert "no such key" in str(crashes.get(timeout=30))
    errors = [piece.error for turn in range(deliveries.qsize()) for answer, piece in deliveries.get() if piece.error]
    assert [type(error) for error in errors] == [Unavailable] * 2
    with pytest.raises(Unavailable, match="ends"):
        generator.submit(Answer(list(b"a"), Sampling(1)))
    generator.close()
