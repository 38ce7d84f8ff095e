"""Answers and streams of `/chat/completions` and `/completions`, from the pieces of a generator's answers.

`Reply` is the state of one request: pieces go in, and either events of a stream or one document comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from handlers.errors import RequestError
from handlers.protocols.openai.errors import error_event
from handlers.text.answer import Piece
from handlers.text.backend import Token

EVENT_STREAM = "text/event-stream"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were read and written."""

    prompt: int
    answer: int

    def document(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        }


@dataclass
class Reply:
    """The reply to one request, in the form of its route.

    Args:
        created: seconds since 1970.
        answers: how many there are, `n` times the prompts.
        top_logprobs: as in `Sampling`.
        token_bytes: what a token stands for.
    """

    id: str
    model: str
    created: int
    is_chat: bool
    answers: int
    top_logprobs: int | None
    token_bytes: Callable[[int], bytes]
    tells_usage: bool = False
    _texts: list[list[str]] = field(init=False)
    _tokens: list[list[Token]] = field(init=False)
    _finishes: list[str | None] = field(init=False)
    _lengths: list[int] = field(init=False)  # characters that the stream has sent
    error: RequestError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._texts = [[] for _ in range(self.answers)]
        self._tokens = [[] for _ in range(self.answers)]
        self._finishes = [None] * self.answers
        self._lengths = [0] * self.answers

    @property
    def is_complete(self) -> bool:
        """Whether nothing more comes."""
        return self.error is not None or None not in self._finishes

    @property
    def finish(self) -> str:
        """How the first answer ended; empty while it goes on, and where it could not."""
        return self._finishes[0] or ""

    @property
    def tokens(self) -> int:
        """Written so far, by all answers."""
        return sum(map(len, self._tokens))

    @property
    def texts(self) -> list[tuple[list[str], str]]:
        """The pieces of each answer's text so far, and how it ended; empty while it goes on."""
        each = zip(self._texts, self._finishes, strict=True)
        return [([piece for piece in pieces if piece], finish or "") for pieces, finish in each]

    def take(self, index: int, piece: Piece) -> None:
        """Keep a piece for `document`."""
        self._tokens[index] += piece.tokens
        self._texts[index].append(piece.text)
        self._finishes[index] = piece.finish or None
        self.error = self.error or piece.error

    def document(self, usage: Usage) -> bytes:
        """The whole answer. An error takes its place (`error`)."""
        choices = []
        for index, (texts, tokens) in enumerate(zip(self._texts, self._tokens, strict=True)):
            text = "".join(texts)
            content = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
            choices.append(self._choice(index, content, tokens, 0, self._finishes[index]))
        kind = "chat.completion" if self.is_chat else "text_completion"
        return to_json({**self._head(kind), "choices": choices, "usage": usage.document()}, inf_nan_mode="null")

    # ---- as a stream -------------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        """The first events: of a chat, who speaks."""
        if not self.is_chat:
            return b""
        role = {"delta": {"role": "assistant", "content": ""}}
        return b"".join(self._event([self._choice(index, role, (), 0, None)]) for index in range(self.answers))

    def events(self, index: int, piece: Piece) -> bytes:
        """The events of a piece, after `take`; the last ones of the stream if the reply is complete with it."""
        if piece.error is not None:
            return error_event(piece.error)
        if not (piece.text or piece.finish or (piece.tokens and self.top_logprobs is not None)):
            return b""
        content = {"delta": {"content": piece.text}} if self.is_chat else {"text": piece.text}
        choice = self._choice(index, content, piece.tokens, self._lengths[index], piece.finish or None)
        self._lengths[index] += len(piece.text)
        return self._event([choice])

    def end(self, usage: Usage, comment: bytes = b"") -> bytes:
        """The end of a stream without an error; the comment stands before its last event."""
        last = self._event([], usage=usage.document()) if self.tells_usage else b""
        return last + comment + DONE

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        if self.tells_usage:
            more = {"usage": None, **more}
        return b"data: " + to_json({**self._head(kind), "choices": choices, **more}, inf_nan_mode="null") + b"\n\n"

    # ---- both --------------------------------------------------------------------------------------------------------

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(
        self, index: int, content: dict[str, Any], tokens: Sequence[Token], offset: int, finish: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self.top_logprobs is not None and tokens:
            logprobs = self._chat_logprobs(tokens) if self.is_chat else self._logprobs(tokens, offset)
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}

    def _chat_logprobs(self, tokens: Iterable[Token]) -> dict[str, Any]:
        def one(number: int, logprob: float | None) -> dict[str, Any]:
            data = self.token_bytes(number)
            return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}

        return {
            "content": [
                {**one(token.id, token.logprob), "top_logprobs": [one(*other) for other in token.top]}
                for token in tokens
            ]
        }

    def _logprobs(self, tokens: Iterable[Token], offset: int) -> dict[str, Any]:
        texts, offsets = [], []
        for token in tokens:
            texts.append(self.token_bytes(token.id).decode(errors="replace"))
            offsets.append(offset)
            offset += len(texts[-1])
        tops = [
            {self.token_bytes(number).decode(errors="replace"): logprob for number, logprob in token.top}
            for token in tokens
        ]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops if self.top_logprobs else None,
            "text_offset": offsets,
        }
