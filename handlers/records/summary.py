"""What a record says of an input and of an answer, in numbers and categories instead of the values themselves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from pydantic import BaseModel

from handlers.records.sketch import sketch

#: The most features of an input, and of an answer's first level.
MOST_FEATURES = 128
#: A list of so many numbers is recorded number by number.
FEW = 16
#: The longest list of an answer that is recorded as it is.
MOST_SCORES = 64
#: Digits of a digest: 128 bits.
DIGEST = 32

Features = dict[str, float | str]


def features(item: Any) -> Features:
    """Numbers (float) and categories (str) of a validated item, by name; MOST_FEATURES at most.

    A text is a category only where the schema limits it to a few (a Literal or an enum): a name or a message of a
    client must not come to the disk.
    """
    found: Features = {}
    for name, value in _walk("", item):
        if len(found) == MOST_FEATURES:
            break
        found[name or "value"] = value
    return found


def _walk(name: str, value: Any, is_closed: bool = False) -> Iterator[tuple[str, float | str]]:
    if isinstance(value, BaseModel):
        for inner, (shown, closed) in _fields(type(value)).items():
            yield from _walk(_joined(name, shown), getattr(value, inner), closed)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif isinstance(value, Enum):
        yield name, value.name
    elif isinstance(value, int | float | np.number):
        yield from [(name, _number(value))] if math.isfinite(value) else []
    elif isinstance(value, str):
        yield (name, value) if is_closed else (_joined(name, "length"), float(len(value)))
    elif isinstance(value, bytes | Mapping):
        yield _joined(name, "length"), float(len(value))
    elif isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        yield from _sequence(name, value)


def _sequence(name: str, value: Any) -> Iterator[tuple[str, float | str]]:
    numbers = _array(value)
    if numbers is not None and numbers.ndim == 1 and 0 < len(numbers) <= FEW:
        for place, number in enumerate(numbers.tolist()):
            yield from [(_joined(name, str(place)), _number(number))] if math.isfinite(number) else []
        return
    yield _joined(name, "length"), float(len(value))
    if numbers is not None and numbers.size:
        statistics = {"mean": numbers.mean(), "std": numbers.std(), "min": numbers.min(), "max": numbers.max()}
        for kind, number in statistics.items():
            yield from [(_joined(name, kind), _number(number))] if math.isfinite(number) else []
    elif isinstance(value, list | tuple) and value and all(isinstance(entry, str) for entry in value):
        yield _joined(name, "characters"), float(sum(map(len, value)))


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _number(value: Any) -> float:
    """With the seven digits that a float32 has."""
    return float(f"{float(value):.7g}")


def _array(value: Any) -> np.ndarray | None:
    """The numbers of a sequence, which may be nested; None where it holds anything else or is ragged."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # ragged; an integer that no array holds
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None


@lru_cache(256)
def _fields(model: type[BaseModel]) -> dict[str, tuple[str, bool]]:
    """For each field, the name that a client writes, and whether its texts are of a closed set."""
    return {name: (field.alias or name, _is_closed(field.annotation)) for name, field in model.model_fields.items()}


def _is_closed(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_closed(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return all(part is NoneType or _is_closed(part) for part in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, Enum)


@dataclass(slots=True)
class Prediction:
    """What a record says of an answer; the columns are those of docs/records.md."""

    label: str | None = None
    score: float | None = None
    scores: list[float] | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    norm: float | None = None
    sketch: list[float] | None = None
    text_length: int | None = None
    text_digest: str | None = None


def prediction(answer: Any, label: str) -> Prediction:
    """The summary of an answer.

    Args:
        answer: decoded from its JSON.
        label: the class that the handler names; empty: none.
    """
    found = Prediction(label=label or None)
    level = answer if isinstance(answer, dict) else {"value": answer}
    texts, vectors = [], []
    for name, value in list(level.items())[:MOST_FEATURES]:
        if isinstance(value, str):
            texts += [value] if value != label else []
        elif isinstance(value, bool | int | float):
            found.outputs[name] = _number(value)
        elif isinstance(value, list) and (numbers := _array(value)) is not None and numbers.size:
            vectors.append(numbers.reshape(-1))
            if found.scores is None and numbers.ndim == 1 and len(numbers) <= MOST_SCORES:
                found.scores = list(map(_number, numbers.tolist()))
    if vectors:
        whole = np.concatenate(vectors)
        found.norm = _number(np.linalg.norm(whole))
        if found.scores is None or len(found.scores) < len(whole):  # otherwise the scores say all
            found.sketch = sketch(whole)
    if texts:
        text = "\n".join(texts)
        found.text_length, found.text_digest = len(text), digest(text.encode("utf-8", "surrogatepass"))
    if len(found.outputs) == 1:
        [found.score] = found.outputs.values()
    elif not found.outputs and found.scores:
        found.score = max(found.scores)
    return found


def digest(content: bytes) -> str:
    """DIGEST hexadecimal digits of SHA-256."""
    return sha256(content).hexdigest()[:DIGEST]
