"""What both the routes that generate and `/embeddings` read: a text, or a list of them, in one field. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.errors import DoesNotFit


def read_texts(field: str, given: str | Sequence[object], most: int) -> list[str]:
    """The texts of a field, at least one.

    Raises:
        DoesNotFit: there are none, more than `most`, or numbers of tokens, which only the model's own tokenizer knows.
    """
    values = [given] if isinstance(given, str) else given
    texts = [text for text in values if isinstance(text, str)]
    if len(texts) < len(values):
        raise misfit(field, "must be text: lists of token numbers are not taken here")
    if not 1 <= len(texts) <= most:
        raise misfit(field, f"must be a text, or a list of 1 to {most} texts")
    return texts


def misfit(field: str, message: str) -> DoesNotFit:
    """The error for one field."""
    return DoesNotFit(f"{field} {message}.", [{"field": field, "message": message}])
