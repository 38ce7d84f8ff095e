"""The plain protocol: the body of a request is one item, and its answer is one JSON value."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_json

from handlers.errors import PayloadTooLarge


def check_size(body: bytes, limit_bytes: int) -> None:
    """Refuse a body that is longer than the archive allows.

    Raises:
        PayloadTooLarge: it is longer.
    """
    if len(body) > limit_bytes:
        raise PayloadTooLarge(f"The body has {len(body)} bytes; at most {limit_bytes} may come.")


def encode(answer: Any) -> bytes:
    """An answer as JSON; tensors, arrays and numpy's numbers as lists and numbers. NaN and infinity stay in it.

    Raises:
        ValueError: it holds something else.
    """
    return to_json(answer, fallback=as_list, inf_nan_mode="constants")


def as_list(value: Any) -> Any:
    """A tensor, array or number of numpy as lists and numbers.

    Raises:
        ValueError: it is none of them.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"a {type(value).__name__} is not JSON")


def is_finite(body: bytes) -> bool:
    """Whether encoded JSON holds no NaN and no infinity, which are not JSON.

    The search for bytes decides almost always; only a text that happens to hold the words is parsed.
    """
    if b"NaN" not in body and b"Infinity" not in body:
        return True
    words: list[str] = []

    def remember(word: str) -> Any:
        words.append(word)

    json.loads(body, parse_constant=remember, parse_int=str)  # as text, because Python refuses to read long integers
    return not words
