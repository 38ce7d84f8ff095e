"""What a record says of a language model's answer: one document, whether it was sent as a stream or in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from handlers.contract import golden_texts
from handlers.records.summary import Features

#: Settings of a request that are features of its record.
_SETTINGS = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "n")


@dataclass(frozen=True, slots=True)
class TextItem:
    """A request that was read.

    Args:
        content: of its body, as a client wrote it.
        body: its bytes.
        prompt_tokens: of all its prompts.
    """

    content: Mapping[str, Any]
    body: bytes
    prompt_tokens: int


def text_features(item: TextItem) -> Features:
    """Numbers of a request; none of its texts."""
    settings = [(name, item.content.get(name)) for name in _SETTINGS]
    numbers = {name: float(value) for name, value in settings if isinstance(value, int | float)}
    streams = "true" if item.content.get("stream") is True else "false"
    return {"prompt_tokens": float(item.prompt_tokens), **numbers, "stream": streams}


def text_document(answers: Sequence[tuple[Sequence[str], str]], prompt_tokens: int, answer_tokens: int) -> bytes:
    """The answer as its record keeps and compares it, as JSON.

    `text` is the text of all answers, with an empty line between two; `answers` has the pieces of each, as golden
    answers have them.

    Args:
        answers: the pieces of each one's text, in which no token is divided, and how it ended.
        answer_tokens: of all answers.
    """
    text = "\n\n".join("".join(pieces) for pieces, _ in answers)
    tokens = {"prompt_tokens": prompt_tokens, "answer_tokens": answer_tokens}
    return to_json({"text": text, **tokens, **golden_texts(answers)})
