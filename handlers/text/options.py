"""How a version generates text: the section `generation` of an archive, as its worker reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Settings of archive.yaml; what they mean stands in docs/text-generation.md."""

    backend: str = "auto"
    context: int = 2048  # tokens of a prompt and its answer together
    max_answers: int = 64  # in the making at once
    max_tokens: int = 256  # of an answer whose request does not say
    most_tokens: int = 1024  # that a request may ask for
    temperature: float = 1.0  # of a request that does not say; so is top_p
    top_p: float = 1.0
    cache_mb: int = 256  # of keys and values
    chat_template: str | None = None  # a file of the archive; None: the model's own
    first_token_s: float = 30.0  # an answer without a token after so long ends
