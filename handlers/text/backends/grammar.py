"""Answers that are JSON of a schema: which tokens may come next, by the package llguidance."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from handlers.text.backends.tokens import Tokens


class Grammar:
    """Follows one answer through its schema."""

    def __init__(self, matcher: Any, bits: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros((1, -(-bits // 32)), np.int32)

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """Whether each token of the vocabulary may come next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask, 0)
        bits = np.unpackbits(self._mask.view(np.uint8)[0], bitorder="little")[:vocabulary]
        allowed = np.zeros(vocabulary, bool)
        allowed[: len(bits)] = bits
        return torch.from_numpy(allowed)

    def take(self, token: int) -> bool:
        """Go on with this token; whether the JSON is complete.

        Raises:
            RuntimeError: the schema is too complex to be followed any further.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise RuntimeError(self._matcher.get_error())
        return bool(self._matcher.is_stopped())


class Grammars:
    """Makes the grammars of one model. Its first one takes about a second."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def of_schema(self, schema: str) -> Grammar:
        """A grammar at its beginning.

        Raises:
            ValueError: the schema cannot be read or is too complex, or the package is missing.
        """
        try:
            from llguidance import LLMatcher
        except ModuleNotFoundError as error:
            raise ValueError("JSON schemas need the package llguidance: pip install 'tsctl[text]'") from error
        # without free white space: small models would fill an answer with it
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise ValueError(f"the JSON schema cannot be read: {error}") from error
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._tokens)
        matcher = LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(f"the JSON schema cannot be used: {matcher.get_error()}")
        return Grammar(matcher, self._tokenizer.vocab_size)


class _Vocabulary:
    """The tokenizer as llguidance wants it."""

    def __init__(self, tokens: Tokens) -> None:
        self.eos_token_id = min(tokens.ends)
        self.bos_token_id = None
        self.special_token_ids = [number for number, piece in enumerate(tokens.all_bytes) if not piece]
        self.tokens: Sequence[bytes] = [piece or b"\xff<%d>" % i for i, piece in enumerate(tokens.all_bytes)]
        self._encode = tokens.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _tokenizer(tokens: Tokens) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    if not tokens.ends:
        raise ValueError("the model has no token that ends an answer")
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokens)), eos_token=sorted(tokens.ends))
