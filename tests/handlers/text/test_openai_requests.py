"""Requests of the OpenAI API: what they ask for, and what is told of those that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.errors import DoesNotFit, ModelFailed, RequestError, Unavailable, UndecodableBody
from handlers.protocols.openai.errors import error_document, status_of
from handlers.protocols.openai.requests import (
    MOST_SCHEMA_BYTES,
    Asked,
    Defaults,
    count_answers,
    parse_chat,
    parse_completion,
)

DEFAULTS = Defaults(max_tokens=100, most_tokens=500, temperature=0.7, top_p=0.9)
USER = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
JSON_OF_A_LARGE_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "large", "schema": {"type": "string", "description": "x" * MOST_SCHEMA_BYTES}},
}


def chat(**fields: Any) -> Asked:
    return parse_chat(json.dumps({"model": "m", "messages": [USER], **fields}).encode(), DEFAULTS)


def completion(**fields: Any) -> Asked:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hi", **fields}).encode(), DEFAULTS)


def test_a_request_that_says_little_gets_the_archives_defaults() -> None:
    asked = chat()
    assert asked.messages == [USER]
    assert (asked.model, asked.answers, asked.is_stream, asked.tells_usage, asked.stops) == ("m", 1, False, False, [])
    sampling = asked.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (100, 0.7, 0.9, None)
    assert (sampling.top_logprobs, sampling.json_schema, sampling.is_greedy) == (None, None, False)
    assert completion().prompts == ["Hi"] and completion().messages is None


def test_what_a_request_says_is_taken() -> None:
    asked = chat(
        max_completion_tokens=7, temperature=0, top_p=0.5, n=2, stop=["a", "b"], seed=5, frequency_penalty=0.5,
        presence_penalty=-1, logprobs=True, top_logprobs=3, stream=True, stream_options={"include_usage": True},
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
        user="u", metadata={"a": "b"}, store=False, logit_bias={}, parallel_tool_calls=True,
    )  # fmt: skip
    sampling = asked.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (7, 0, 0.5, 5)
    assert sampling.is_greedy
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.top_logprobs) == (0.5, -1, 3)
    assert json.loads(sampling.json_schema or "") == {"type": "integer"}
    assert (asked.answers, asked.stops, asked.is_stream, asked.tells_usage) == (2, ["a", "b"], True, True)
    assert completion(stop="x", logprobs=0, prompt=["a", "b"]).stops == ["x"]
    assert completion(logprobs=0).sampling.top_logprobs == 0
    assert chat(logprobs=True).sampling.top_logprobs == 0
    assert json.loads(chat(response_format={"type": "json_object"}).sampling.json_schema or "") == {"type": "object"}


def test_null_is_as_if_it_were_not_there() -> None:
    names = ("temperature", "top_p", "n", "stop", "seed", "max_tokens", "stream", "logprobs", "tools", "tool_choice")
    assert chat(**dict.fromkeys(names)) == chat()


def test_messages_keep_what_the_template_may_want() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "c", "name": "f"},
    ]
    asked = chat(messages=messages, tools=[{"type": "function", "function": {"name": "f"}}])
    assert asked.messages == [{**messages[0], "content": "ab"}, {**messages[1], "content": ""}, messages[2]]
    assert len(asked.tools) == 1
    assert chat(tools=[{"type": "function"}], tool_choice="none").tools == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": 5}, "stop"),
        ({"seed": 1 << 63}, "seed"),
        ({"seed": -(1 << 63) - 1}, "seed"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 501}, "max_tokens"),
        ({"max_completion_tokens": 501}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": JSON_OF_A_LARGE_SCHEMA}, "response_format.json_schema.schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_does_not_fit_names_the_parameter(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(DoesNotFit) as refused:
        chat(**fields)
    document = json.loads(error_document(refused.value))["error"]
    assert document["type"] == "invalid_request_error"
    assert document["param"] == param
    assert document["message"].startswith(param)
    assert status_of(refused.value) == 400


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": []}, "prompt", "must be a text, or a list of 1 to 16 texts"),
        ({"prompt": ["a"] * 17}, "prompt", "must be a text, or a list of 1 to 16 texts"),
        ({"prompt": [1, 2]}, "prompt", "must be text: lists of token numbers are not taken here"),
        ({"prompt": [[1], [2]]}, "prompt", "must be text: lists of token numbers are not taken here"),
        ({"prompt": {"text": "x"}}, "prompt", "should be a valid string or a valid array"),
        ({"prompt": ["a", 1]}, "prompt.1", "should be a valid string"),
        ({"best_of": 2}, "best_of", "should be 1"),
        ({"echo": True}, "echo", "should be False"),
        ({"suffix": "x"}, "suffix", "should be ''"),
        ({"logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"stop": list("abcde")}, "stop", "at most 4 items"),
        ({"stop": 5}, "stop", "should be a valid string or a valid array"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "should be empty or null: no token's likelihood is changed here"),
    ],
)
def test_a_completion_that_cannot_be_given_says_what_may_be(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(DoesNotFit) as refused:
        completion(**fields)
    document = json.loads(error_document(refused.value))["error"]
    assert (document["param"], status_of(refused.value)) == (param, 400)
    assert words in document["message"]


def test_any_64_bit_number_is_a_seed_and_text_is_the_one_modality() -> None:
    for seed in (-1, -(1 << 63), (1 << 63) - 1):
        assert chat(seed=seed).sampling.seed == completion(seed=seed).sampling.seed == seed
    assert chat(modalities=["text"], prompt_cache_retention="24h") == chat()


def test_a_request_that_never_has_places_names_the_parameter() -> None:
    chat(n=4).require_places(4)
    completion(prompt=["a", "b"], n=2).require_places(4)
    for asked, param in (
        (chat(n=5), "n"),
        (completion(prompt=["a"] * 5), "prompt"),
        (completion(prompt=["a"] * 3, n=2), "n"),
    ):
        with pytest.raises(
            DoesNotFit, match=f"{param} asks for {asked.all_answers} answers in all, and .* gives 4"
        ) as no:
            asked.require_places(4)
        assert json.loads(error_document(no.value))["error"]["param"] == param


def test_tools_that_a_model_would_not_learn_of_are_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    chat(tools=tools).require_tools_are_read(reads_tools=True)
    unsaid: list[dict[str, Any]] = [{}, {"tools": []}, {"tools": tools, "tool_choice": "none"}]
    for fields in unsaid:
        chat(**fields).require_tools_are_read(reads_tools=False)
    with pytest.raises(DoesNotFit, match="not in this model's chat template") as refused:
        chat(tools=tools).require_tools_are_read(reads_tools=False)
    document = json.loads(error_document(refused.value))["error"]
    assert (document["param"], document["type"]) == ("tools", "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({"messages": [USER]}, 1),
        ({"messages": [USER], "n": 16}, 16),
        ({"prompt": "a", "n": 2}, 2),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b", "c"], "n": 4}, 12),
        ({"prompt": [], "n": None}, 1),
        ({"messages": [USER], "n": "16"}, 1),
        ({"messages": [USER], "n": 17}, 1),
        (["n", {"n": 3}], 1),
    ],
)
def test_answers_are_counted_without_reading_the_rest(body: Any, answers: int) -> None:
    assert count_answers(json.dumps(body).encode()) == answers
    assert count_answers(json.dumps(body).encode()[:-1]) == 1, "it is no JSON"


def test_prompts_times_answers_are_bounded() -> None:
    assert completion(prompt=["a"] * 4, n=4).answers == 4
    with pytest.raises(DoesNotFit, match="times the number of prompts"):
        completion(prompt=["a"] * 4, n=5)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": "m", "messages": [NaN]}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises((UndecodableBody, DoesNotFit)) as refused:
        parse_chat(body, DEFAULTS)
    assert status_of(refused.value) == 400


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(ModelFailed("It failed."), 500, "server_error"), (Unavailable("Many."), 503, "server_error")],
)
def test_errors_that_are_not_the_clients(error: RequestError, status: int, kind: str) -> None:
    document = json.loads(error_document(error))["error"]
    assert (status_of(error), document["type"], document["param"]) == (status, kind, None)
    assert document["code"] == error.kind
