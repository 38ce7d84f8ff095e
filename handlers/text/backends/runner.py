"""What computes one step of a network: chunks of prompts and answers at once, on keys and values kept in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one answer, or of its prompt.

    Args:
        tokens: at least one.
        past: tokens before them, whose keys and values are in `blocks`.
        blocks: numbers of its blocks, in order, enough for past and tokens.
    """

    tokens: Sequence[int]
    past: int
    blocks: Sequence[int]


class Runner(Protocol):
    """A loaded network and its memory for keys and values. One thread uses it."""

    name: str  # of its backend, as archive.yaml has it
    block_tokens: int  # tokens of a block
    blocks: int
    step_tokens: int  # of prompts in a step at most
    beside_tokens: int  # the same, of a step in which answers get their next tokens: they wait for it

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Logits after the last token of each chunk: float32, shape (chunks, vocabulary), valid until the next call.

        Keys and values of the chunks are in their blocks afterwards. If it raises, `past` tokens still are.
        """

    def close(self) -> None:
        """Give the memory back."""
