"""Messages between the accepting process and its workers arrive as they were sent; nothing else is taken for one."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.adapters.asgi import frames
from handlers.adapters.asgi.frames import (
    ANSWERS,
    BATCH,
    CANCEL,
    PARTS,
    READY,
    SUBMIT,
    Answer,
    Head,
    Item,
    MalformedFrame,
    Part,
    Unpacker,
)

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
names = names.filter(lambda name: name not in frames.FRAMING)
values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(
    lambda v: v.encode("latin-1")
)
headers = st.lists(st.tuples(names, values), max_size=4)
items = st.builds(Item, headers, st.binary(max_size=50), st.text(max_size=10), st.sampled_from(["", "oip-v2"]))
answers = st.builds(
    Answer, st.integers(200, 599).filter(lambda s: s not in (204, 304)), headers.map(tuple), st.binary(max_size=50)
)

heads = st.builds(Head, st.integers(200, 599).filter(lambda s: s not in (204, 304)), headers.map(tuple))
parts = st.builds(Part, st.integers(0, 2**32 - 1), st.none() | heads, st.binary(max_size=50), st.booleans())


def fed(unpacker: Unpacker, sent: bytes, sizes: list[int]) -> list[tuple[bytes, bytes]]:
    """The messages in bytes that come in parts of these sizes, and what is left in one."""
    messages = []
    for size in [*sizes, len(sent)]:
        part, sent = sent[:size], sent[size:]
        messages += list(unpacker.feed(part))
    return messages


@given(st.lists(st.lists(items, min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 60), max_size=20))
def test_batches_arrive_as_they_were_sent(batches: list[list[Item]], sizes: list[int]) -> None:
    sent = b"".join(map(frames.batch_frame, batches))
    messages = fed(Unpacker(), sent, sizes)
    assert [kind for kind, _ in messages] == [BATCH] * len(batches)
    assert [frames.read_batch(content) for _, content in messages] == batches


@given(st.lists(st.lists(answers, max_size=4), max_size=3), st.lists(st.integers(0, 60), max_size=20))
def test_answers_arrive_as_they_were_sent(batches: list[list[Answer]], sizes: list[int]) -> None:
    sent = b"".join(map(frames.answers_frame, batches))
    messages = fed(Unpacker(), sent, sizes)
    assert [kind for kind, _ in messages] == [ANSWERS] * len(batches)
    assert [frames.read_answers(content) for _, content in messages] == batches


@given(st.lists(st.lists(parts, max_size=4), max_size=3), st.lists(st.integers(0, 60), max_size=20))
def test_parts_arrive_as_they_were_sent(steps: list[list[Part]], sizes: list[int]) -> None:
    sent = b"".join(map(frames.parts_frame, steps))
    messages = fed(Unpacker(), sent, sizes)
    assert [kind for kind, _ in messages] == [PARTS] * len(steps)
    assert [frames.read_parts(content) for _, content in messages] == steps


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), items), max_size=3))
def test_requests_and_their_ends_arrive_as_they_were_sent(submitted: list[tuple[int, Item]]) -> None:
    sent = b"".join(frames.submit_frame(*each) + frames.cancel_frame(each[0]) for each in submitted)
    messages = fed(Unpacker(), sent, [])
    assert [kind for kind, _ in messages] == [SUBMIT, CANCEL] * len(submitted)
    assert [frames.read_submit(content) for _, content in messages[::2]] == submitted
    assert [frames.read_cancel(content) for _, content in messages[1::2]] == [ticket for ticket, _ in submitted]


@given(st.binary(max_size=200))
def test_whatever_a_worker_sends_is_parts_or_malformed(content: bytes) -> None:
    try:
        read = frames.read_parts(content)
    except MalformedFrame:
        return
    assert sum(len(part.body) for part in read) <= len(content)
    assert read == frames.read_parts(frames.parts_frame(read)[5:])


def test_a_part_that_would_mislead_a_client_is_malformed() -> None:
    for head in (Head(204, ()), Head(100, ()), Head(200, ((b"transfer-encoding", b"chunked"),))):
        [(_, content)] = Unpacker().feed(frames.parts_frame([Part(1, head, b"", False)]))
        with pytest.raises(MalformedFrame):
            frames.read_parts(content)


@given(st.binary(max_size=200))
def test_whatever_a_worker_sends_is_answers_or_malformed(content: bytes) -> None:
    try:
        read = frames.read_answers(content)
    except MalformedFrame:
        return
    assert sum(len(answer.body) for answer in read) <= len(content)
    assert [Answer(*answer) for answer in read] == frames.read_answers(frames.answers_frame(read)[5:])


@given(st.binary(max_size=100))
def test_a_report_is_a_json_object_or_malformed(content: bytes) -> None:
    with suppress(MalformedFrame):
        assert isinstance(frames.read_report(content), dict)


def test_reports_arrive_as_they_were_sent() -> None:
    [(kind, content)] = Unpacker().feed(frames.report_frame(READY, {"facts": {"device": "cpu"}}))
    assert (kind, frames.read_report(content)) == (READY, {"facts": {"device": "cpu"}})


@pytest.mark.parametrize("sent", [b"\0\0\0\0", b"\xff\xff\xff\xff", (frames.LONGEST + 1).to_bytes(4, "big")])
def test_a_length_that_no_message_has_is_refused_before_its_content_comes(sent: bytes) -> None:
    with pytest.raises(MalformedFrame, match="bytes"):
        list(Unpacker().feed(sent))


@pytest.mark.parametrize(
    "block",
    [
        b"x:a\rset-cookie: b", b"x y:1", b"no colon", b":empty", b"x:a\x00", b"X:upper",
        b"content-length:3", b"x:1\ntransfer-encoding:chunked", b"connection:close", b"upgrade:h2c", b"keep-alive:1",
        b"x:" + b"a" * frames.LONGEST_HEADERS,
    ],
)  # fmt: skip
def test_a_header_that_could_end_another_or_the_answer_is_malformed(block: bytes) -> None:
    content = struct.pack("!HII", 200, len(block), 0) + block
    with pytest.raises(MalformedFrame):
        frames.read_answers(content)


@pytest.mark.parametrize("status", [0, 100, 101, 199, 204, 304, 600, 65535])
def test_a_status_behind_which_a_body_is_another_answer_is_malformed(status: int) -> None:
    with pytest.raises(MalformedFrame, match=f"status {status}"):
        frames.read_answers(struct.pack("!HII", status, 0, 5) + b"HTTP/")
