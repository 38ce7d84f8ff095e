"""The client of streams: what it reads from the bytes of an answer, and what it counts of many."""

from __future__ import annotations

import pytest

from benchmarks.harness.client import Address
from benchmarks.text.load import Plan, run_load, running_load
from benchmarks.text.stream import BROKEN, CUT, REFUSED, TOLD, UNREACHED, WHOLE, Reader, Stream
from tests.benchmarks.text_server import HEAD, chunk, text_event, text_server, whole_answer

WORDS = ("a", "b", "c")
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"


def read(pieces: list[bytes], is_closed: bool = False) -> Stream:
    """The stream after these pieces, which come at the seconds 1, 2, 3 and so on."""
    reader = Reader(Stream(0.0))
    for moment, piece in enumerate(pieces, 1):
        reader.feed(piece, float(moment))
    assert reader.is_complete != is_closed
    if is_closed:
        reader.end(len(pieces) + 1.0)
    return reader.stream


def test_a_whole_answer_has_its_moments_and_tokens() -> None:
    stream = read(whole_answer(WORDS))
    assert (stream.outcome, stream.status, stream.version) == (WHOLE, 200, "1.0")
    assert stream.moments == [2.0, 3.0, 4.0]
    assert (stream.prompt, stream.answer, stream.finish) == (5, 3, "length")
    assert (stream.first_s, stream.token_s) == (2.0, 1.0)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_may_end_anywhere(size: int) -> None:
    data = b"".join(whole_answer(WORDS))
    stream = read([data[place : place + size] for place in range(0, len(data), size)])
    assert (stream.outcome, len(stream.moments), stream.answer) == (WHOLE, 3, 3)


def test_texts_that_come_together_have_one_moment_each() -> None:
    together = chunk(text_event("a") + text_event("b")) + chunk(text_event("c"))
    assert read([HEAD, together], is_closed=True).moments == [2.0, 2.0, 2.0]


def test_an_event_without_text_is_no_moment() -> None:
    role = chunk(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
    said = chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    assert read([HEAD, role, said], is_closed=True).moments == [3.0]


def test_usage_counts_the_tokens() -> None:
    usage = chunk(b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\n')
    stream = read([HEAD, chunk(text_event("a")), usage], is_closed=True)
    assert (stream.prompt, stream.tokens) == (7, 9)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([HEAD, chunk(text_event("a"))], BROKEN),
        ([HEAD, chunk(text_event("a")), b"0\r\n\r\n"], BROKEN),
        ([HEAD, chunk(b"event: error\ndata: {}\n\n: tokens prompt=1;answer=0;finish=error\n\n"), b"0\r\n\r\n"], TOLD),
        ([HEAD[:20]], UNREACHED),
        ([REFUSAL], REFUSED),
        ([HEAD, chunk(b"data: [DONE]\n\n")], WHOLE),  # a server that closes the connection in place of a last chunk
    ],
)
def test_every_end_has_an_outcome(pieces: list[bytes], outcome: str) -> None:
    reader = Reader(Stream(0.0))
    for piece in pieces:
        reader.feed(piece, 1.0)
    if not reader.is_complete:
        reader.end(2.0)
    assert reader.stream.outcome == outcome


def test_a_refusal_has_its_words() -> None:
    stream = read([REFUSAL])
    assert (stream.status, stream.detail, stream.ended) == (503, "full", 1.0)


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answer"):
        Reader(Stream(0.0)).feed(b"SSH-2.0\r\n\r\n", 1.0)


def test_users_ask_again_until_the_time_is_over() -> None:
    broken = [HEAD, chunk(text_event("a"))]
    with text_server([whole_answer(WORDS), broken, [REFUSAL]]) as url:
        measured = run_load(Address(url, {}), Plan(['{"a": 1}'], users=3, seconds=1.0, ramp_s=0.1))
    outcomes = {stream.outcome for stream in measured.streams}
    assert outcomes == {WHOLE, BROKEN, REFUSED}
    assert len(measured.streams) > 3
    assert measured.begin < measured.end
    assert measured.cpu_s > 0
    assert all(stream.asked <= stream.ended for stream in measured.streams)


def test_an_open_loop_sends_when_it_is_due_whatever_was_answered() -> None:
    with text_server([whole_answer(WORDS)], pause_s=0.1) as url:
        measured = run_load(Address(url, {}), Plan(["{}"], users=0, seconds=1.0, arrivals=[0.0, 0.01, 0.02, 0.5]))
    assert [stream.outcome for stream in measured.streams] == [WHOLE] * 4
    assert measured.streams[1].asked < measured.streams[0].ended


def test_a_client_that_is_stopped_hangs_up_after_its_drain() -> None:
    with text_server([[HEAD, chunk(text_event("a")), b""]], pause_s=2.0) as url:
        plan = Plan(["{}"], users=2, seconds=60.0, ramp_s=0.0, drain_s=0.2)
        with running_load(Address(url, {}), plan) as running:
            measured = running.stop()
    assert {stream.outcome for stream in measured.streams} <= {CUT}


def test_a_server_that_is_not_there_is_counted() -> None:
    with text_server([]) as url:
        pass
    measured = run_load(Address(url, {}), Plan(["{}"], users=1, seconds=0.3, ramp_s=0.0))
    assert {stream.outcome for stream in measured.streams} == {UNREACHED}
