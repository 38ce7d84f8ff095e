"""Requests of `/chat/completions` and `/completions`: validated, and as what the text generator needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, from_json, to_json

from handlers.protocols.openai.texts import misfit, read_texts
from handlers.schema import Schema, parse_json
from handlers.text.sampling import Sampling

#: As OpenAI has them.
MOST_STOPS, MOST_TOP_LOGPROBS, MOST_COMPLETION_LOGPROBS = 4, 20, 5
#: Answers to one prompt, and prompts of one request.
MOST_ANSWERS = 16
#: Bytes of a JSON schema; its time to be compiled grows with the square of them.
MOST_SCHEMA_BYTES = 1 << 16

Stop = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


def _require_nothing(biases: dict[str, float]) -> dict[str, float]:
    if biases:
        raise PydanticCustomError("unsupported", "Input should be empty or null: no token's likelihood is changed here")
    return biases


class _Part(Schema):
    type: Literal["text"]
    text: str


class _Message(Schema):
    model_config = ConfigDict(extra="allow")  # what else a message has is the chat template's

    role: Annotated[str, Field(min_length=1)]
    content: str | list[_Part] | None = None


class _StreamOptions(Schema):
    include_usage: bool = False
    include_obfuscation: bool = False  # ignored: it hides the lengths of tokens from who listens on the network


class _JsonSchema(Schema):
    model_config = ConfigDict(extra="allow")  # a description, `strict`

    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class _ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Common(Schema):
    model: str | None = None  # a path that names the model needs it not
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # these say nothing of the answer
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # these would change it, and only their defaults are known here
    logit_bias: Annotated[dict[str, float], AfterValidator(_require_nothing)] | None = None


class ChatCompletion(_Common):
    """The body of `/chat/completions`."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None


class Completion(_Common):
    """The body of `/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MOST_COMPLETION_LOGPROBS)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that says nothing, and the most that it may have; from the archive."""

    max_tokens: int = 256
    most_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for."""

    model: str | None
    messages: Sequence[dict[str, Any]] | None  # for the chat template; None: `prompts` are texts
    tools: Sequence[dict[str, Any]]
    prompts: Sequence[str]
    sampling: Sampling
    stops: Sequence[str]
    answers: int  # to each prompt
    is_stream: bool
    tells_usage: bool  # in a last chunk of a stream

    @property
    def all_answers(self) -> int:
        """To all prompts together."""
        return self.answers * max(1, len(self.prompts))

    def require_places(self, most: int) -> None:
        """Raise DoesNotFit where there are never so many places for answers."""
        if self.all_answers > most:
            name = "n" if self.answers > 1 else "prompt"
            raise misfit(name, f"asks for {self.all_answers} answers in all, and this model gives {most} at a time")

    def require_tools_are_read(self, reads_tools: bool) -> None:
        """Raise DoesNotFit for tools that the model would not learn of."""
        if self.tools and not reads_tools:
            raise misfit(
                "tools", "are not in this model's chat template, so it would not learn of them; leave them out"
            )


def parse_chat(body: bytes, defaults: Defaults) -> Asked:
    """The body of `/chat/completions`.

    Raises:
        RequestError: it cannot be read, does not fit, or asks for more tokens than the archive allows.
    """
    sent = parse_json(ChatCompletion, body)
    if sent.top_logprobs is not None and not sent.logprobs:
        raise misfit("top_logprobs", "needs logprobs: true")
    if sent.max_tokens is not None and sent.max_completion_tokens is not None:
        raise misfit("max_tokens", "is the old name of max_completion_tokens; send one of them")
    most = sent.max_completion_tokens if sent.max_tokens is None else sent.max_tokens
    name = "max_tokens" if sent.max_completion_tokens is None else "max_completion_tokens"
    logprobs = (sent.top_logprobs or 0) if sent.logprobs else None
    messages = [_message(message) for message in sent.messages]
    tools = [] if sent.tool_choice == "none" else (sent.tools or [])
    sampling = _sampling(sent, name, most, logprobs, _schema(sent.response_format), defaults)
    return _asked(sent, messages, tools, (), sampling)


def parse_completion(body: bytes, defaults: Defaults) -> Asked:
    """The body of `/completions`. Errors as in `parse_chat`."""
    sent = parse_json(Completion, body)
    prompts = read_texts("prompt", sent.prompt, MOST_ANSWERS)
    if len(prompts) * (sent.n or 1) > MOST_ANSWERS:
        raise misfit("n", f"times the number of prompts is more than {MOST_ANSWERS}")
    sampling = _sampling(sent, "max_tokens", sent.max_tokens, sent.logprobs, None, defaults)
    return _asked(sent, None, (), prompts, sampling)


def count_answers(body: bytes) -> int:
    """How many answers a body asks for; 1 where it does not say, or cannot be read."""
    if b'"n"' not in body and b'"prompt"' not in body:
        return 1
    try:
        sent = from_json(body)
    except ValueError:
        return 1
    if not isinstance(sent, dict):
        return 1
    answers, prompts = sent.get("n"), sent.get("prompt")
    if not isinstance(answers, int) or not 1 <= answers <= MOST_ANSWERS:
        answers = 1
    return answers * (max(1, len(prompts)) if isinstance(prompts, list) else 1)


def _asked(
    sent: _Common,
    messages: Sequence[dict[str, Any]] | None,
    tools: Sequence[dict[str, Any]],
    prompts: Sequence[str],
    sampling: Sampling,
) -> Asked:
    if sent.stream_options is not None and not sent.stream:
        raise misfit("stream_options", "needs stream: true")
    stops = [sent.stop] if isinstance(sent.stop, str) else (sent.stop or [])
    tells_usage = sent.stream_options is not None and sent.stream_options.include_usage
    return Asked(sent.model, messages, tools, prompts, sampling, stops, sent.n or 1, bool(sent.stream), tells_usage)


def _sampling(
    sent: _Common, name: str, most: int | None, logprobs: int | None, json_schema: str | None, defaults: Defaults
) -> Sampling:
    if most is not None and most > defaults.most_tokens:
        raise misfit(name, f"is more than {defaults.most_tokens}, which this model answers with at most")
    return Sampling(
        max_tokens=defaults.max_tokens if most is None else most,
        temperature=defaults.temperature if sent.temperature is None else sent.temperature,
        top_p=defaults.top_p if sent.top_p is None else sent.top_p,
        frequency_penalty=sent.frequency_penalty or 0.0,
        presence_penalty=sent.presence_penalty or 0.0,
        seed=sent.seed,
        top_logprobs=logprobs,
        json_schema=json_schema,
    )


def _schema(asked: _ResponseFormat | None) -> str | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return '{"type":"object"}'
    if asked.json_schema is None:
        raise misfit("response_format.json_schema", "is missing")
    schema = to_json(asked.json_schema.schema_)
    if len(schema) > MOST_SCHEMA_BYTES:
        raise misfit("response_format.json_schema.schema", f"has {len(schema)} bytes, and {MOST_SCHEMA_BYTES} may be")
    return schema.decode()


def _message(message: _Message) -> dict[str, Any]:
    """As chat templates take it: the content as one text."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    return {**(message.model_extra or {}), "role": message.role, "content": content or ""}
