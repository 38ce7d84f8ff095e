"""A backend of a language model that answers what the test says, step by step, and a handler with it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handlers.text.backend import LENGTH, STOP, Produced, Token
from handlers.text.sampling import Sampling
from handlers.text_generation import TextGenerationHandler

POISON, END = 13, 0


class Scripted:
    """Answers each prompt with its own tokens, one a step, then END; fails in a step that begins a prompt of POISON."""

    name = "scripted"

    def __init__(self, context: int = 10) -> None:
        self.context = context
        self.answers: dict[int, list[int]] = {}
        self.samplings: list[Sampling] = []
        self.steps: list[set[int]] = []
        self._permits = threading.Semaphore(0)  # a step takes one, unless it is free
        self._is_free = True
        self.fails_now = False
        self.is_closed = False

    def hold(self) -> None:
        self._is_free = False

    def allow(self, steps: int) -> None:
        self._permits.release(steps)

    def free(self) -> None:
        self._is_free = True
        self.allow(1)  # to the one that waits

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        if not messages[-1]["content"]:
            raise ValueError("the last message says nothing")
        return self.encode(messages[-1]["content"])

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token else b""

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        raise ValueError("no JSON here")

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        if sampling.json_schema is not None:
            raise ValueError("no JSON here")
        self.answers[key] = [*prompt, END][: sampling.max_tokens]
        self.samplings.append(sampling)

    def cancel(self, key: int) -> None:
        del self.answers[key]

    def step(self) -> Iterable[Produced]:
        assert self._is_free or self._permits.acquire(timeout=30)
        if self.fails_now or any(POISON in tokens for tokens in self.answers.values()):
            raise RuntimeError("a bad step")
        self.steps.append(set(self.answers))
        produced = []
        for key, tokens in list(self.answers.items()):
            token = tokens.pop(0)
            finish = STOP if token == END else "" if tokens else LENGTH
            if finish:
                del self.answers[key]
            produced.append(Produced(key, (Token(token),), finish))
        return produced

    def cache_usage(self) -> float:
        return 0.0

    def close(self) -> None:
        self.is_closed = True


class ScriptedHandler(TextGenerationHandler):
    """Continues each text, and answers each chat, with the text itself."""

    backend: Scripted

    def load(self) -> None:
        self.backend = Scripted(self.generation.context)
