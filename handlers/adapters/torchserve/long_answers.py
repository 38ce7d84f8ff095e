"""Answers that TorchServe would not take: which become errors, and the bytes of an author's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from handlers.errors import ModelFailed


def unsendable(answers: Sequence[Any], longest: int) -> dict[int, ModelFailed]:
    """Errors in place of the answers that would end the worker, by position.

    An answer over `longest` does it at once. Many together take the node too long, because it reads a response anew
    with every 64 KiB that come: 30 MiB took it 2 s, and 120 MiB 29 s. So the largest are left out until the others have
    twice `longest` at most.
    """
    sizes = {index: len(answer) for index, answer in enumerate(answers) if isinstance(answer, bytes)}
    total = sum(sizes.values())
    errors = {}
    for index in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sizes[index] > longest:
            errors[index] = ModelFailed(f"The answer has {sizes[index]} bytes; at most {longest} can be sent.")
        elif total > 2 * longest:
            errors[index] = ModelFailed("The answers of its batch have more bytes together than can be sent.")
        else:
            break
        total -= sizes[index]
    return errors


def as_bytes(answer: Any) -> Any:
    """An answer of an author's own `handle`, in the bytes that TorchServe would send; others stay as they are."""
    try:
        if isinstance(answer, str):
            return answer.encode()
        if isinstance(answer, bytearray):
            return bytes(answer)
        return answer if isinstance(answer, bytes | torch.Tensor) else json.dumps(answer, indent=2).encode()
    except (TypeError, ValueError):
        return answer
