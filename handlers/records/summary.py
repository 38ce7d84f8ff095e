"""What a record says of an input and of an answer, in numbers and categories instead of the values themselves. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from pydantic import BaseModel
from pydantic_core import to_json

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

# a union that is written out is made anew at each call, and Mapping and Tensor are slow to ask: they come last
_NUMBERS = (int, float, np.number)
_SIZED = (bytes, Mapping)
_SEQUENCES = (list, tuple, np.ndarray, torch.Tensor)


def features(item: Any) -> Features:
    """Numbers (float) and categories (str) of a validated item, by name; MOST_FEATURES at most.

    A text is a category only where the schema limits it to a few (a Literal or an enum): a name or a message of a
    client must not come to the disk.
    """
    found: Features = {}
    _add(found, "", item, False)
    return found


def _add(found: Features, name: str, value: Any, is_closed: bool) -> None:
    if len(found) >= MOST_FEATURES:
        return
    if type(value) is float:  # most features of most models
        if math.isfinite(value):
            found[name or "value"] = value
    elif type(value) is list:
        found.update(_sequence(name, value))
    elif isinstance(value, BaseModel):
        values = value.__dict__
        for field_name, shown, closed in _fields(type(value)):
            _add(found, _joined(name, shown), values.get(field_name), closed)
    elif isinstance(value, bool):
        found[name or "value"] = "true" if value else "false"
    elif isinstance(value, Enum):
        found[name or "value"] = value.name
    elif isinstance(value, _NUMBERS):
        if _is_finite(value):
            found[name or "value"] = float(value)
    elif isinstance(value, str):
        found.update({name: value} if is_closed else {_joined(name, "length"): float(len(value))})
    elif isinstance(value, _SIZED):
        found[_joined(name, "length")] = float(len(value))
    elif isinstance(value, _SEQUENCES):
        found.update(_sequence(name, value))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _sequence(name: str, value: Any) -> Features:
    numbers = _array(value)
    if numbers is not None and numbers.ndim == 1 and 0 < len(numbers) <= FEW:
        entries = enumerate(numbers.tolist())
        return {_joined(name, str(place)): number for place, number in entries if math.isfinite(number)}
    found: Features = {_joined(name, "length"): float(len(value))}
    if numbers is not None and numbers.size:
        mean = np.add.reduce(numbers, None) / numbers.size  # a quarter of the time of numbers.mean()
        deviation = numbers - mean
        std = math.sqrt(float(np.vdot(deviation, deviation)) / numbers.size)  # a third of the time of numbers.std()
        statistics = {"mean": mean, "std": std, "min": numbers.min(), "max": numbers.max()}
        found |= {_joined(name, kind): _short(each) for kind, each in statistics.items() if math.isfinite(each)}
    elif isinstance(value, list | tuple) and value and all(isinstance(entry, str) for entry in value):
        found[_joined(name, "characters")] = float(sum(map(len, value)))
    return found


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _short(value: Any) -> float:
    """The number with the seven digits that a float32 has."""
    return float(f"{float(value):.7g}")


def _array(value: Any) -> np.ndarray | None:
    """The numbers of a sequence, which may be nested; None where it holds anything else or is ragged."""
    if type(value) is not list and isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    array = _numeric(value)
    return None if array is None else array.astype(np.float64)


def _numeric(value: Any) -> np.ndarray | None:
    """The same as integers or fractions, as they are."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # ragged; an integer that no array holds
        return None
    return array if array.dtype.kind in "iuf" else None


@lru_cache(256)
def _fields(model: type[BaseModel]) -> list[tuple[str, str, bool]]:
    """Each field's name, the name that a client writes, and whether its texts are of a closed set."""
    return [(name, field.alias or name, _is_closed(field.annotation)) for name, field in model.model_fields.items()]


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
    lists: list[str] = field(default_factory=list)
    rest_digest: str | None = None
    rest_has_fractions: bool = False


def prediction(answer: Any, label: str) -> Prediction:
    """The summary of an answer.

    `rest_digest` is of the answer without the values that other columns have: its fields, their forms, whole numbers,
    and all that is nested. So two answers with equal digests of the rest differ in the other columns, or not at all.

    Args:
        answer: decoded from its JSON.
        label: the class that the handler names; empty: none.
    """
    found = Prediction(label=label or None)
    level = answer if isinstance(answer, dict) else {"value": answer}
    rest = dict(level)  # of which a value that a column has is replaced by its form
    texts, vectors, fractions = [], [], {}
    for name, value in list(level.items())[:MOST_FEATURES]:
        if isinstance(value, str):
            texts += [value] if value != label else []
            rest[name] = "label" if value == label else f"{len(value)} characters"
        elif isinstance(value, bool | int | float):
            if _is_finite(value):
                found.outputs[name] = float(value)
                rest[name] = 0.0 if isinstance(value, float) else value  # a whole number must be equal
        elif isinstance(value, list) and (array := _numeric(value)) is not None and array.size:
            numbers = array.astype(np.float64, copy=False)
            vectors.append(numbers.reshape(-1))
            found.lists.append(name)
            if array.dtype.kind == "f":
                fractions[name] = f"fractions of shape {array.shape}"
            if found.scores is None and numbers.ndim == 1 and len(numbers) <= MOST_SCORES:
                found.scores = numbers.tolist()
    if vectors:
        whole = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        found.norm = _short(math.sqrt(float(np.vdot(whole, whole))))
        has_all = found.scores is not None and len(found.scores) == len(whole)
        if not has_all:
            found.sketch = sketch(whole)
        if math.isfinite(found.norm) and (has_all or found.sketch is not None):
            rest |= fractions
    if texts:
        text = "\n".join(texts)
        found.text_length, found.text_digest = len(text), digest(text.encode("utf-8", "surrogatepass"))
    single = [name for name in found.outputs if not isinstance(level[name], bool)]
    if len(single) == 1:
        found.score = found.outputs[single[0]]
    elif not found.outputs and found.scores:
        found.score = max(found.scores)
    found.rest_digest = digest(to_json(rest, inf_nan_mode="constants"))
    integers = set(found.lists) - fractions.keys()
    kept = [value for name, value in rest.items() if value is level[name] and name not in integers]
    found.rest_has_fractions = any(map(_has_fraction, kept))
    return found


def _has_fraction(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_fraction, value.values()))
    return any(map(_has_fraction, value)) if isinstance(value, list) else isinstance(value, float)


def digest(content: bytes) -> str:
    """DIGEST hexadecimal digits of SHA-256."""
    return sha256(content).hexdigest()[:DIGEST]
