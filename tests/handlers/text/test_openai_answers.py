"""Answers and streams of the OpenAI API, read back as a client reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.errors import DeadlinePassed
from handlers.protocols.openai.answers import DONE, Reply, Usage
from handlers.text.answer import Piece
from handlers.text.backend import LENGTH, STOP, Token

WORDS = {1: b"Hel", 2: b"lo", 3: b" \xf0\x9f", 4: b"\x98\x80", 5: b""}
FIRST = Piece("Hel", (Token(1, -0.5, ((1, -0.5), (2, -1.5))),))
LAST = Piece("lo", (Token(2, -0.25), Token(5, -0.125)), STOP)


def reply(is_chat: bool = True, **more: Any) -> Reply:
    return Reply("id-1", "m", 1234, is_chat, more.pop("answers", 1), more.pop("top", None), WORDS.__getitem__, **more)


def stream(made: Reply, pieces: list[tuple[int, Piece]]) -> list[dict[str, Any]]:
    """The data of each event, without the last one."""
    sent = made.begin()
    for index, piece in pieces:
        made.take(index, piece)
        sent += made.events(index, piece)
    assert made.is_complete
    sent += made.end(Usage(3, made.tokens))
    assert sent.endswith(DONE)
    events = sent.removesuffix(DONE).decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_the_whole_answer_of_a_chat() -> None:
    made = reply()
    for piece in (FIRST, LAST):
        assert not made.is_complete
        made.take(0, piece)
    assert made.is_complete
    assert json.loads(made.document(Usage(4, made.tokens))) == {
        "id": "id-1",
        "object": "chat.completion",
        "created": 1234,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7},
    }


def test_the_stream_of_a_chat_is_its_whole_answer_in_pieces() -> None:
    chunks = stream(reply(), [(0, FIRST), (0, LAST)])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}
    ]  # fmt: skip
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_is_told_in_a_last_chunk_where_it_is_asked_for() -> None:
    *chunks, last = stream(reply(tells_usage=True), [(0, FIRST), (0, LAST)])
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 6)


def test_completions_have_texts() -> None:
    made = reply(is_chat=False, answers=2)
    chunks = stream(made, [(0, FIRST), (1, Piece("x", (Token(1),), LENGTH)), (0, LAST)])
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    sent = [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in chunks]
    assert sent == [(0, "Hel"), (1, "x"), (0, "lo")]
    whole = json.loads(made.document(Usage(3, made.tokens)))
    assert [(choice["text"], choice["finish_reason"]) for choice in whole["choices"]] == [
        ("Hello", STOP),
        ("x", LENGTH),
    ]
    assert whole["usage"]["completion_tokens"] == 4


def test_log_probabilities_of_a_chat() -> None:
    made = reply(top=2)
    chunks = stream(
        made, [(0, FIRST), (0, Piece("", (Token(3, -1.0),))), (0, Piece(" \U0001f600", (Token(4, -2.0),), STOP))]
    )
    told = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
    assert told[0] is None
    assert told[1]["content"] == [
        {
            "token": "Hel",
            "logprob": -0.5,
            "bytes": [72, 101, 108],
            "top_logprobs": [
                {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]},
                {"token": "lo", "logprob": -1.5, "bytes": [108, 111]},
            ],
        }
    ]
    tokens = [one for logprobs in told[1:] for one in logprobs["content"]]
    assert bytes(byte for one in tokens for byte in one["bytes"]).decode() == "Hel \U0001f600"
    whole = json.loads(made.document(Usage(1, made.tokens)))
    assert whole["choices"][0]["logprobs"]["content"] == tokens


@pytest.mark.parametrize("top", [0, 2])
def test_log_probabilities_of_a_completion(top: int) -> None:
    made = reply(is_chat=False, top=top)
    chunks = stream(made, [(0, FIRST), (0, LAST)])
    first, last = (chunk["choices"][0]["logprobs"] for chunk in chunks)
    assert (first["tokens"], last["tokens"]) == (["Hel"], ["lo", ""])
    assert (first["text_offset"], last["text_offset"]) == ([0], [3, 5])
    assert last["token_logprobs"] == [-0.25, -0.125]
    assert first["top_logprobs"] == ([{"Hel": -0.5, "lo": -1.5}] if top else None)


def test_parts_of_characters_are_tokens_of_their_own_and_the_likeliest_of_one_text_stays() -> None:
    top = ((3, -0.1), (4, -1.0), (5, -2.0), (2, -3.0), (6, -4.0))
    made = Reply("id-1", "m", 1234, False, 1, 5, {**WORDS, 6: b""}.__getitem__)
    [chunk] = stream(made, [(0, Piece(" \U0001f600", (Token(3, -0.1, top), Token(4, -1.0, top)), STOP))])
    logprobs = chunk["choices"][0]["logprobs"]
    parts = r"bytes:\x20\xf0\x9f", r"bytes:\x98\x80"
    assert logprobs["tokens"] == list(parts)
    assert logprobs["top_logprobs"] == [{parts[0]: -0.1, parts[1]: -1.0, "": -2.0, "lo": -3.0}] * 2


def test_a_token_that_says_nothing_yet_is_no_event() -> None:
    made = reply()
    piece = Piece("", (Token(3),))
    made.take(0, piece)
    assert made.events(0, piece) == b""
    assert made.tokens == 1


def test_a_stream_that_breaks_says_so() -> None:
    made = reply()
    broken = Piece("", (), error=DeadlinePassed("The answer was not complete when its time was over."))
    made.take(0, FIRST)
    made.take(0, broken)
    assert made.is_complete and made.error is broken.error
    event, data, end = made.events(0, broken).decode().split("\n", 2)
    assert (event, end) == ("event: error", "\n")
    assert json.loads(data.removeprefix("data: "))["error"] == {
        "message": "The answer was not complete when its time was over.",
        "type": "server_error",
        "param": None,
        "code": "deadline-passed",
    }
