"""Answers that are JSON of a schema: which tokens may come next, by the package llguidance."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from handlers.text.backends.tokens import Tokens

#: Symbols of a grammar, some 1,500 optional properties, and what may be open at one place of an answer: so many
#: properties leave four times as much open. More would take longer than 0.2 s to compile, and 50 ms for a token.
MOST_SYMBOLS, MOST_OPEN = 10_000, 10_000
#: Compiled schemas that are kept, 1 to 2 MB each where they are as large as may be.
MOST_KEPT = 32


class Grammar:
    """Follows one answer through its schema."""

    def __init__(self, matcher: Any, bits: int) -> None:
        self._matcher = matcher
        self._bits = bits
        self._mask = np.zeros((1, -(-bits // 32)), np.int32)

    def copy(self) -> Grammar:
        """One for another answer, at the same place; takes microseconds."""
        return Grammar(self._matcher.deep_copy(), self._bits)

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """Whether each token of the vocabulary may come next.

        Raises:
            RuntimeError: the schema is too complex to be followed any further.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask, 0)
        self._require_no_error()
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
        self._require_no_error()
        return bool(self._matcher.is_stopped())

    def _require_no_error(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(_first_line(self._matcher.get_error()))


class Grammars:
    """Makes the grammars of one model, in any thread, and keeps those of named clients."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()  # by client and schema, the newest last

    def of_schema(self, schema: str, client: str | None = None) -> Grammar:
        """A grammar at its beginning, which answers copy. A schema of many properties takes up to 0.4 s.

        Args:
            client: who gets it sooner the next time, and nobody else, who would learn of it; None: it is not kept.

        Raises:
            ValueError: the schema cannot be read or is too complex, or the package is missing.
        """
        if client is None:
            return self._compiled(schema)
        with self._lock:
            if (kept := self._kept.get((client, schema))) is not None:
                self._kept.move_to_end((client, schema))
                return kept
        grammar = self._compiled(schema)
        with self._lock:
            self._kept[client, schema] = grammar
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return grammar

    def _compiled(self, schema: str) -> Grammar:
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ModuleNotFoundError as error:
            raise ValueError("JSON schemas need the package llguidance: pip install 'tsctl[text]'") from error
        # without free white space: small models would fill an answer with it
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise ValueError(f"the JSON schema cannot be read: {_first_line(str(error))}") from error
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._tokens)
        limits = LLParserLimits(max_grammar_size=MOST_SYMBOLS, max_items_in_row=MOST_OPEN, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(f"the JSON schema cannot be used: {_first_line(matcher.get_error())}")
        made = Grammar(matcher, self._tokenizer.vocab_size)
        try:
            made.allowed(self._tokenizer.vocab_size)  # the first time takes long, and copies have it
        except RuntimeError as error:
            raise ValueError(f"the JSON schema cannot be used: {error}") from error
        return made


def _first_line(message: str) -> str:
    """The first line of what llguidance says; the rest is about its own state."""
    return message.split("\n", 1)[0]


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
