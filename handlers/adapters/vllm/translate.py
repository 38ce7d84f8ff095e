"""A request of ours as vLLM reads it, and the events of its stream as ours. Pure.

Only what `handlers.protocols.openai` understands is passed on: vLLM has further parameters, with which a client could
come before others, read another's cache, or go on after the end of an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_core import to_json

from handlers.contract import TOKENS_COMMENT, tokens_text
from handlers.errors import DeadlinePassed, DoesNotFit, ModelFailed, PayloadTooLarge, RequestError, Unavailable
from handlers.protocols.openai.answers import DONE
from handlers.protocols.openai.errors import error_document
from handlers.protocols.openai.requests import Asked

CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
#: Parts the text of a special token, so that the tokenizer reads it as text: a word joiner, which has no width.
JOINER = "\u2060"


def to_vllm(asked: Asked, name: str, salt: str, special: Sequence[str]) -> tuple[str, bytes]:
    """The path and the body that vLLM's server gets.

    Args:
        name: of the model, as vLLM serves it.
        salt: prompts are looked for in the cache among those with the same one.
        special: texts of special tokens, which stand for text where a client sends them.
    """
    sampling = asked.sampling
    body: dict[str, Any] = {
        "model": name,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "seed": sampling.seed,
        "n": asked.answers,
        "stop": list(asked.stops),
        "cache_salt": salt,
    }
    if sampling.is_greedy and asked.answers > 1:  # vLLM refuses several answers there; the likeliest token is as well
        body |= {"temperature": 1.0, "top_p": 1.0, "top_k": 1}  # that of the one that may be chosen
    if asked.is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if sampling.json_schema is not None:
        schema = {"name": "schema", "schema": json.loads(sampling.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if asked.messages is None:
        prompts = [as_text(prompt, special) for prompt in asked.prompts]
        body["prompt"] = prompts[0] if len(prompts) == 1 else prompts
        if sampling.top_logprobs is not None:
            body["logprobs"] = sampling.top_logprobs
        return COMPLETION_PATH, to_json(body)
    body["messages"] = as_text(list(asked.messages), special)
    if asked.tools:  # they are the template's; vLLM itself reads no calls from the answer
        body |= {"tools": as_text(list(asked.tools), special), "tool_choice": "none"}
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return CHAT_PATH, to_json(body)


def as_text(value: Any, special: Sequence[str]) -> Any:
    """A JSON value in whose strings no special token is left: a joiner stands behind its first character."""
    if not special:
        return value
    pattern = re.compile("|".join(map(re.escape, special)))

    def part(found: re.Match[str]) -> str:
        return found[0][0] + JOINER + found[0][1:]

    def each(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(part, value)
        if isinstance(value, dict):
            return {each(name): each(one) for name, one in value.items()}
        return [each(one) for one in value] if isinstance(value, list) else value

    return each(value)


def error_of(status: int, body: bytes) -> RequestError:
    """vLLM's refusal as one of our errors; what it says of the request is for the client, and nothing else is."""
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    if status in (400, 422) and message:
        return DoesNotFit(message if len(message) <= 1000 else message[:997] + "...")
    if status == 413:
        return PayloadTooLarge("The request is too large.")
    if status in (503, 529):
        return Unavailable("The model cannot take the request at the moment; retry later.")
    if status == 504:
        return DeadlinePassed("The answer took too long.")
    return ModelFailed("The model failed while it computed this answer.")


@dataclass
class Tokens:
    """What an answer cost, and how it ended, as far as it is known."""

    prompt: int = 0
    answer: int = 0
    finish: str = ""  # of the first answer
    queued_s: float = 0.0  # until vLLM began with it
    first_s: float | None = None  # until its first token, as vLLM says, which it does where there is one answer

    def text(self) -> str:
        """The value of TOKENS_HEADER."""
        return tokens_text(self.prompt, self.answer, self.finish or "error")

    def take(self, document: dict[str, Any]) -> None:
        """Read the usage and the finish from an answer, or from an event that has them."""
        if isinstance(usage := document.get("usage"), dict):
            self.prompt, self.answer = usage.get("prompt_tokens", 0), usage.get("completion_tokens") or 0
        if isinstance(metrics := document.get("metrics"), dict):
            self.queued_s = (metrics.get("queue_time_ms") or 0.0) / 1000
            if (first_ms := metrics.get("time_to_first_token_ms")) is not None:
                self.first_s = first_ms / 1000
        for choice in document.get("choices", ()):
            if choice.get("index") == 0 and choice.get("finish_reason"):
                self.finish = {"stop": "stop", "length": "length"}.get(choice["finish_reason"], "error")


@dataclass
class EventStream:
    """The events of vLLM's stream, as they go to the client.

    Args:
        tells_usage: the client asked for the event with the usage; else it is left out.
    """

    tells_usage: bool
    tokens: Tokens = field(default_factory=Tokens)
    pieces: int = 0  # events with text so far
    is_over: bool = False  # its last byte is out
    error: RequestError | None = None
    _held: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go out now."""
        *events, self._held = (self._held + data).split(b"\n\n")
        return b"".join(out for event in events for out in self._event(event))

    @property
    def known_tokens(self) -> Tokens:
        """What it cost; before the usage at its end, each event with text counts as a token of the answer."""
        return self.tokens if self.tokens.answer else replace(self.tokens, answer=self.pieces)

    def fail(self, error: RequestError) -> bytes:
        """The end of a stream that cannot go on; empty where it has ended already."""
        if self.is_over:
            return b""
        self.tokens = self.known_tokens
        self.is_over, self.error = True, error
        self.tokens.finish = "error"
        return b"event: error\ndata: " + error_document(error) + b"\n\n" + self._comment()

    def _event(self, event: bytes) -> Iterator[bytes]:
        if self.is_over:
            return
        if event == b"data: [DONE]":
            if self.tokens.finish in ("", "error"):
                yield self.fail(ModelFailed("The answer cannot go on."))
                return
            self.is_over = True
            yield self._comment() + DONE
            return
        if event.startswith(b'data: {"error"'):
            yield self.fail(error_of(500, b""))
            return
        # the rest is passed on as it is; only what says more than text is read
        if b'"usage":{' in event or b'"finish_reason":"' in event:
            document = json.loads(event.removeprefix(b"data: "))
            self.tokens.take(document)
            if not document["choices"] and not self.tells_usage:
                return
        self.pieces += b'"content":""' not in event and b'"text":""' not in event
        yield event + b"\n\n"

    def _comment(self) -> bytes:
        return TOKENS_COMMENT.encode() + self.tokens.text().encode() + b"\n\n"
