"""What a backend of a language model does: it has a tokenizer, and computes the next token of many answers at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from handlers.text.sampling import Sampling

#: The answer is over: the model ended it; it has as many tokens as it may have.
STOP, LENGTH = "stop", "length"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    id: int
    logprob: float | None = None  # natural logarithm of its probability; None: not asked for
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens at this place, with theirs


@dataclass(frozen=True, slots=True)
class Produced:
    """What one step gave to one answer."""

    key: int
    tokens: tuple[Token, ...] = ()
    finish: str = ""  # STOP or LENGTH; empty while it goes on
    failure: str = ""  # why the answer cannot go on, such as too little memory; empty where it can


class Backend(Protocol):
    """A loaded model. One thread calls `add`, `cancel` and `step`; any thread calls the others.

    The backend forms the batches itself: an answer joins and leaves between two steps.
    """

    name: str  # as archive.yaml has it
    context: int  # tokens of a prompt and its answer together

    def encode(self, text: str) -> list[int]:
        """The text's tokens, without one that begins a text."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of the model's chat template, with the beginning of the answer.

        Raises:
            ValueError: the template refuses the messages; with its words.
        """

    def token_bytes(self, token: int) -> bytes:
        """The bytes that the token stands for; empty for one that is no text."""

    def grammar(self, schema: str, salt: str | None = None) -> Any:
        """`Sampling.grammar` for answers that are JSON of this schema. It may take as long as many steps.

        Args:
            salt: as of `add`.

        Raises:
            ValueError: the schema cannot be followed.
        """

    def add(self, key: int, prompt: Sequence[int], sampling: Sampling, salt: str | None = None) -> None:
        """Begin an answer. Its keys are never used again.

        Args:
            salt: who asks. What is kept of a prompt serves later ones with the same salt, and no others; None: nobody.

        Raises:
            ValueError: the backend cannot do what `sampling` asks for.
        """

    def cancel(self, key: int) -> None:
        """End an answer before its time; `step` says nothing more of it."""

    def step(self) -> Iterable[Produced]:
        """Compute the next token of every answer that has a place."""

    def cache_usage(self) -> float:
        """Share of the memory for keys and values that is in use, from 0 to 1."""

    def close(self) -> None:
        """Give the memory back."""
