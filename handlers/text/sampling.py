"""How the tokens of one answer are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of one answer. A backend that cannot do one of them says so before the answer begins."""

    max_tokens: int
    temperature: float = 1.0  # 0: the likeliest token each time
    top_p: float = 1.0  # the likeliest tokens that have this share together
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    top_logprobs: int | None = None  # alternatives of each token; None: not even the token's own log probability
    json_schema: str | None = None  # the answer is JSON of this schema
    grammar: Any = field(default=None, compare=False)  # what `Backend.grammar` made of it; None: `add` makes it
    ignore_end: bool = False  # goes on after the token that ends an answer, for measurements

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0
