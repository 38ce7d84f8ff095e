"""Requests of the OpenAI API: what they ask for, and what is told of those that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.errors import DoesNotFit, ModelFailed, RequestError, Unavailable, UndecodableBody
from handlers.protocols.openai.errors import error_document, status_of
from handlers.protocols.openai.requests import Asked, Defaults, parse_chat, parse_completion

DEFAULTS = Defaults(max_tokens=100, most_tokens=500, temperature=0.7, top_p=0.9)
USER = {"role": "user", "content": "Hi"}


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
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 501}, "max_tokens"),
        ({"max_completion_tokens": 501}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
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
    assert document["param"].startswith(param)
    assert document["message"]
    assert status_of(refused.value) == 400


@pytest.mark.parametrize(
    "fields", [{"prompt": []}, {"prompt": [1, 2]}, {"best_of": 2}, {"echo": True}, {"suffix": "x"}, {"logprobs": 6}]
)
def test_a_completion_that_cannot_be_given_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(DoesNotFit):
        completion(**fields)


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
