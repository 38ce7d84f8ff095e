"""Requests for text: prompts of words that are one token each, and the lengths of answers; equal seeds give equal ones.

No two prompts begin alike, so that a prefix cache has nothing to give.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.workloads.inputs import mixed_lengths

MODEL = "smollm2"
_TEXT = """
time people water house story light river music garden window morning paper mountain letter summer winter year world
life hand part child eye woman place work week case point company number group problem fact
"""
#: Of prompts: common nouns; each is one token after a space, in the vocabularies of SmolLM2, Qwen and Llama.
WORDS = tuple(_TEXT.split())


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and of answers: evenly spread over their logarithms, from the first to the second number."""

    prompt: tuple[int, int]
    answer: tuple[int, int]

    def pairs(self, count: int, seed: int) -> list[tuple[int, int]]:
        """The lengths of so many requests; which prompt gets which answer is chance."""
        prompts = mixed_lengths(count, *self.prompt, seed)
        return list(zip(prompts, mixed_lengths(count, *self.answer, seed + 1), strict=True))


def bodies(lengths: Lengths, count: int, seed: int) -> list[str]:
    """Bodies of `/completions`: greedy streams, which end after the wanted tokens unless the model ends them before."""
    chance = random.Random(seed)  # noqa: S311 - the same on every machine, and no secret
    return [
        json.dumps(
            {
                "model": MODEL,
                "prompt": " ".join(chance.choice(WORDS) for _ in range(prompt)),
                "max_tokens": answer,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        for prompt, answer in lengths.pairs(count, seed)
    ]


def arrivals(requests_s: float, seconds: float, seed: int) -> list[float]:
    """Moments at which an open loop sends, in seconds after its begin: a Poisson process."""
    return list(_arrivals(requests_s, seconds, seed))


def _arrivals(requests_s: float, seconds: float, seed: int) -> Iterator[float]:
    chance, moment = random.Random(seed), 0.0  # noqa: S311 - as above
    while (moment := moment + chance.expovariate(requests_s)) < seconds:
        yield moment


def mean_lengths(lengths: Lengths, count: int, seed: int) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer."""
    pairs: Sequence[tuple[int, int]] = lengths.pairs(count, seed)
    return sum(p for p, _ in pairs) / count, sum(a for _, a in pairs) / count
