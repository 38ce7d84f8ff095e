"""Reads JSON that others wrote: bounded in depth, each key once, finite numbers, values of the right type. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tsctl.mistakes import first_mistake

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_DEPTH = 50
_SHOWN = 60  # characters of what a message quotes
Kind = TypeVar("Kind", bound="DataclassInstance")


def parse_json(content: bytes) -> Any:
    """The JSON value in `content`, which the caller has bounded.

    Raises:
        ValueError: it is no JSON, is nested deeper than MAX_DEPTH, has a key twice, or a number that is not finite.
    """
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"is nested more than {MAX_DEPTH} deep")


def checked(made: Kind) -> Kind:
    """A dataclass that was made of what others wrote, once each of its values has the type that the class says.

    Raises:
        ValueError: a value has another type; the message, one line, says where.
    """
    try:
        read: Kind = _adapter(type(made)).validate_python(asdict(made))
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
    return read


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _inside(value: Any) -> list[Any]:
    """The lists and objects in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, dict | list)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:_SHOWN]!r} is a duplicate")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_SHOWN]} is not a finite number")
    return number
