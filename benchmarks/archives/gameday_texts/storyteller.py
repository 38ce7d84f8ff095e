"""A backend that tells a story of 10 to 39 made-up words, by the prompt, at a steady pace; and its faults.

The faults are those of chats. The golden prompt is no chat, so verification passes all versions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from handlers.text.backend import LENGTH, STOP, Produced, Token
from handlers.text.sampling import Sampling

#: What the chat template writes before a message.
CHAT = "<user>"
SHORTEST, LENGTHS, WORDS = 10, 30, 1000


@dataclass
class _Story:
    words: list[int]
    most: int  # tokens that the request may have
    breaks_at: int | None  # the token in whose place it fails
    tokens: int = 0  # given so far


class Storyteller:
    """`handlers.text.backend.Backend`."""

    name = "storyteller"

    def __init__(self, context: int, settings: Mapping[str, Any]) -> None:
        self.context = context
        self._step_s = settings["step_ms"] / 1000
        self._fault, self._share = settings["fault"], settings.get("share", 100)
        self._stories: dict[int, _Story] = {}
        self._next_at = 0.0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        message = "" if self._fault == "template without the message" else messages[-1]["content"]
        return self.encode(f"{CHAT}{message}")

    def token_bytes(self, token: int) -> bytes:
        return b"word%d " % token

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        raise ValueError("no JSON here")

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        digest = crc32(bytes(prompt))
        words = [crc32(b"%d %d" % (digest, place)) % WORDS for place in range(SHORTEST + digest % LENGTHS)]
        breaks_at = None
        if bytes(prompt).startswith(CHAT.encode()) and crc32(b"%d" % key) % 100 < self._share:
            if self._fault == "never stops":
                words = words * sampling.max_tokens
            elif self._fault == "repeats":
                words += words[-3:] * sampling.max_tokens
            elif self._fault == "ends early":
                words = words[: len(words) // 4]
            elif self._fault == "breaks":
                breaks_at = len(words) // 2
        self._stories[key] = _Story(words, sampling.max_tokens, breaks_at)

    def cancel(self, key: int) -> None:
        del self._stories[key]

    def step(self) -> list[Produced]:
        now = time.monotonic()
        self._next_at = max(self._next_at + self._step_s, now)  # a pace, whatever a step itself takes
        time.sleep(self._next_at - now)
        return [self._produced(key, story) for key, story in list(self._stories.items())]

    def _produced(self, key: int, story: _Story) -> Produced:
        if story.tokens == story.breaks_at:
            del self._stories[key]
            return Produced(key, failure="the storyteller forgot the rest")
        story.tokens += 1
        is_last = story.tokens == len(story.words)
        finish = STOP if is_last else LENGTH if story.tokens == story.most else ""
        if finish:
            del self._stories[key]
        return Produced(key, (Token(story.words[story.tokens - 1]),), finish)

    def cache_usage(self) -> float:
        return 0.0

    def close(self) -> None:
        self._stories = {}
