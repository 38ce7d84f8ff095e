"""From text to tokens and back, for every backend: special tokens come from the chat template, and from no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handlers.text.backends.chat import ChatTemplate
from handlers.text.backends.files import Facts
from handlers.text.vocabulary import bytes_of_tokens


class Tokens:
    """A model's tokenizer and chat template. Any thread may use it.

    Raises:
        ValueError: the vocabulary is of a kind whose bytes are not known.
    """

    def __init__(self, facts: Facts) -> None:
        self._tokenizer = facts.tokenizer
        self._tokenizer.encode_special_tokens = True  # as text
        self._special = facts.special
        self.ends = facts.ends
        self._template = ChatTemplate(facts.chat_template, facts.special, facts.names)
        vocabulary = facts.tokenizer.get_vocab(with_added_tokens=True)
        self._bytes = bytes_of_tokens(vocabulary, {*facts.special.values()})

    def encode(self, text: str) -> list[int]:
        # of a batch: other threads work meanwhile, and long texts take a tenth of a second
        return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """Raises ValueError where the template refuses the messages."""
        tokens: list[int] = []
        for is_special, piece in self._template.pieces(messages, tools):
            tokens += [self._special[piece]] if is_special else self.encode(piece)
        return tokens

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token] if token < len(self._bytes) else b""

    @property
    def all_bytes(self) -> Sequence[bytes]:
        """The bytes of each token, by number; empty for special ones."""
        return self._bytes


class Tokenized:
    """The part of a `handlers.text.backend.Backend` that is about text; any thread may call it."""

    context: int
    _tokens: Tokens

    def encode(self, text: str) -> list[int]:
        return self._tokens.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        return self._tokens.encode_chat(messages, tools)

    def token_bytes(self, token: int) -> bytes:
        return self._tokens.token_bytes(token)

    def _require_room(self, prompt: Sequence[int]) -> None:
        if len(prompt) >= self.context:
            raise ValueError(f"the prompt has {len(prompt)} tokens, and the model reads {self.context} with its answer")
