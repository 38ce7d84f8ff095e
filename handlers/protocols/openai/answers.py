"""Answers and streams of `/chat/completions` and `/completions`, from the pieces of a generator's answers.

`Reply` is the state of one request: pieces go in, and either events of a stream or one document comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
        is_stream: `document` is not asked for.
    """

    id: str
    model: str
    created: int
    is_chat: bool
    answers: int
    top_logprobs: int | None
    token_bytes: Callable[[int], bytes]
    tells_usage: bool = False
    is_stream: bool = False
    _texts: list[list[str]] = field(init=False)
    _counts: list[int] = field(init=False)  # tokens
    #: For `document`, by name, and encoded as they come: many of them at an answer's end would hold up all others.
    _encoded: list[dict[str, list[bytes]]] = field(init=False)
    _offsets: list[int] = field(init=False)  # characters of those
    _finishes: list[str | None] = field(init=False)
    _lengths: list[int] = field(init=False)  # characters that the stream has sent
    error: RequestError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._texts = [[] for _ in range(self.answers)]
        self._counts = [0] * self.answers
        self._encoded = [{} for _ in range(self.answers)]
        self._offsets = [0] * self.answers
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
        return sum(self._counts)

    @property
    def texts(self) -> list[tuple[list[str], str]]:
        """The pieces of each answer's text so far, and how it ended; empty while it goes on."""
        each = zip(self._texts, self._finishes, strict=True)
        return [([piece for piece in pieces if piece], finish or "") for pieces, finish in each]

    def take(self, index: int, piece: Piece) -> None:
        """Keep a piece for `document`."""
        self._counts[index] += len(piece.tokens)
        if self.top_logprobs is not None and piece.tokens and not self.is_stream:
            self._encode(index, piece.tokens)
        self._texts[index].append(piece.text)
        self._finishes[index] = piece.finish or None
        self.error = self.error or piece.error

    def document(self, usage: Usage) -> bytes:
        """The whole answer. An error takes its place (`error`)."""
        choices = []
        for index, texts in enumerate(self._texts):
            text = "".join(texts)
            content = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
            lists = {name: b"[" + b",".join(values) + b"]" for name, values in self._encoded[index].items()}
            if lists and not self.is_chat:
                lists.setdefault("top_logprobs", b"null")
            logprobs = _object(lists) if lists else b"null"
            choice = {"index": index, **content}, {"finish_reason": self._finishes[index]}
            choices.append(_object({**_encoded(choice[0]), "logprobs": logprobs, **_encoded(choice[1])}))
        kind = "chat.completion" if self.is_chat else "text_completion"
        all_ = b"[" + b",".join(choices) + b"]"
        return _object({**_encoded(self._head(kind)), "choices": all_, "usage": to_json(usage.document())})

    def _encode(self, index: int, tokens: Sequence[Token]) -> None:
        logprobs = self._chat_logprobs(tokens) if self.is_chat else self._logprobs(tokens, self._offsets[index])
        self._offsets[index] += sum(len(self.token_bytes(token.id).decode(errors="replace")) for token in tokens)
        for name, values in logprobs.items():
            if values is not None:
                encoded = [to_json(value, inf_nan_mode="null") for value in values]
                self._encoded[index].setdefault(name, []).extend(encoded)

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
        texts, offsets, tops = list[str](), list[int](), list[dict[str, float]]()
        for token in tokens:
            data = self.token_bytes(token.id)
            texts.append(_token_text(data))
            offsets.append(offset)
            offset += len(data.decode(errors="replace"))
            top = dict[str, float]()
            for number, logprob in token.top:  # the likeliest first; special tokens have no text, and share one place
                top.setdefault(_token_text(self.token_bytes(number)), logprob)
            tops.append(top)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops if self.top_logprobs else None,
            "text_offset": offsets,
        }


def _token_text(data: bytes) -> str:
    """A token as text; one that is a part of a character is named by its bytes, as the API does."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _encoded(members: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: to_json(value) for name, value in members.items()}


def _object(members: Mapping[str, bytes]) -> bytes:
    """A JSON object of members that are JSON already."""
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members.items()) + b"}"
