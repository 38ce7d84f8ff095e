"""One request to a language model, from its body to the parts of its answer. Knows no thread and no generator."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic_core import from_json

from handlers.contract import (
    JSON,
    MODEL_VERSION_HEADER,
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    OPENAI_EMBEDDINGS,
    PROTOCOL_HEADER,
    RETRY_HEADER,
    RETRY_REFUSED,
    TOKENS_COMMENT,
    TOKENS_HEADER,
    tokens_text,
)
from handlers.errors import DoesNotFit, NotImplementedHere, RequestError, Unavailable
from handlers.messages import Head, Outcome, Part, Request, problem
from handlers.protocols.openai.answers import EVENT_STREAM, Reply, Usage
from handlers.protocols.openai.errors import error_document, status_of
from handlers.protocols.openai.requests import Asked, Defaults, parse_chat, parse_completion
from handlers.records.texts import text_document
from handlers.text.answer import Answer, Piece

#: Protocols whose errors have the form of the OpenAI API.
OPENAI = frozenset((OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS))
_ERROR = "error"  # in place of a finish


def read_asked(request: Request, defaults: Defaults) -> Asked:
    """What a body asks for; without PROTOCOL_HEADER, its own fields say by which route.

    Raises:
        RequestError: it is of neither route, or does not fit the one that the header names.
    """
    protocol = request.headers.get(PROTOCOL_HEADER)
    if protocol is not None and protocol not in (OPENAI_CHAT, OPENAI_COMPLETION):
        what = "embeddings" if protocol == OPENAI_EMBEDDINGS else "tensors of the Open Inference Protocol"
        raise NotImplementedHere(f"This model generates text, and has no {what}: ask /v1/chat/completions.")
    if protocol is None:
        protocol = _protocol_of(request.body)
    return (parse_chat if protocol == OPENAI_CHAT else parse_completion)(request.body, defaults)


def _protocol_of(body: bytes) -> str:
    try:
        sent = from_json(body)
    except ValueError:
        return OPENAI_CHAT  # whose parser says what is wrong
    if isinstance(sent, dict) and "messages" not in sent:
        if "prompt" in sent:
            return OPENAI_COMPLETION
        message = "is missing, and so is prompt: send messages for a chat, or prompt for a text to continue"
        raise DoesNotFit(f"messages {message}.", [{"field": "messages", "message": message}])
    return OPENAI_CHAT


def refusal(request: Request, error: RequestError, model: str, version: str) -> Outcome:
    """The answer to a request that gets no text, in the form of its protocol."""
    headers: list[tuple[str, str]] = [(MODEL_VERSION_HEADER, version)]
    if isinstance(error, Unavailable):
        headers += [("retry-after", str(max(1, math.ceil(error.retry_after_s)))), (RETRY_HEADER, RETRY_REFUSED)]
    outcome = problem(error, request.request_id, model, version)
    if request.headers.get(PROTOCOL_HEADER) in OPENAI:
        error = outcome.error or error  # where the author's own status is none
        outcome = Outcome(status_of(error), error_document(error), JSON, error)
    outcome.headers = tuple(headers)
    return outcome


def part_of(ticket: Hashable, outcome: Outcome) -> Part:
    """An outcome as an answer of one part."""
    return Part(ticket, outcome.body, Head(outcome.status, outcome.media_type, outcome.headers), True)


@dataclass(eq=False)
class Exchange:
    """A request that the generator works on, and what has become of it.

    Args:
        ticket: the adapter's own name of the request.
        answers: to each prompt `n` of them, in the order of the choices.
        prompt_tokens: of all prompts together.
        is_counted: by the metrics; a check of the gateway is not.
    """

    ticket: Hashable
    request: Request
    reply: Reply
    answers: Sequence[Answer]
    prompt_tokens: int
    is_stream: bool
    model: str
    version: str
    is_counted: bool = True
    has_begun: bool = field(default=False, init=False)  # the head is sent
    begun: set[Answer] = field(default_factory=set, init=False)  # that have a token
    error: RequestError | None = field(default=None, init=False)

    @property
    def has_ended(self) -> bool:
        """Whether its last part was made."""
        return self.error is not None or self.reply.is_complete

    @property
    def tokens_text(self) -> str:
        """The value of TOKENS_HEADER."""
        return tokens_text(self.prompt_tokens, self.reply.tokens, _ERROR if self.error else self.reply.finish)

    @property
    def text_document(self) -> bytes:
        """The answer as records have it; empty where it could not go on."""
        return b"" if self.error else text_document(self.reply.texts, self.prompt_tokens, self.reply.tokens)

    def take(self, index: int, piece: Piece) -> Iterator[Part]:
        """The part that a piece of an answer makes; none where it makes none. Nothing may come after the end."""
        self.reply.take(index, piece)
        self.error = piece.error
        if not self.is_stream:
            if self.has_ended:
                yield self._whole()
        elif self.error is not None and not self.has_begun:
            yield self._whole()
        else:
            yield from self._streamed(index, piece)

    def _whole(self) -> Part:
        """The answer in one piece, or the error in its place."""
        if self.error is not None:
            outcome = refusal(self.request, self.error, self.model, self.version)
        else:
            headers = ((MODEL_VERSION_HEADER, self.version),)
            outcome = Outcome(200, self.reply.document(self._usage), headers=headers)
        outcome.headers = (*outcome.headers, (TOKENS_HEADER, self.tokens_text))
        return part_of(self.ticket, outcome)

    def _streamed(self, index: int, piece: Piece) -> Iterator[Part]:
        events, head = self.reply.events(index, piece), None
        if not self.has_begun and (piece.tokens or piece.finish):
            self.has_begun = True
            events = self.reply.begin() + events
            head = Head(200, EVENT_STREAM, ((MODEL_VERSION_HEADER, self.version), ("cache-control", "no-cache")))
        if self.has_ended:
            comment = f"{TOKENS_COMMENT}{self.tokens_text}\n\n".encode()
            events += comment if self.error is not None else self.reply.end(self._usage, comment)
        if events or head is not None:
            yield Part(self.ticket, events, head, self.has_ended)

    @property
    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.reply.tokens)
