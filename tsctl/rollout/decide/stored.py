"""Events of a journal to and from the JSON that it stores. Pure.

Invariant: a key that this version does not know is ignored, and a kind that it does not know becomes `Unknown` and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tsctl.mistakes import first_mistake
from tsctl.rollout.decide import events, interventions, shadow
from tsctl.rollout.decide.events import Event


@dataclass(frozen=True)
class Unknown(Event):
    """An event of a kind that this version does not know."""

    kind: str  # type: ignore[misc]
    content: Mapping[str, Any]


#: The type of each kind.
EVENTS: dict[str, type[Event]] = {
    found.kind: found
    for module in (events, interventions, shadow)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Event) and found not in (Event, Unknown)
}


def to_json(event: Event) -> dict[str, Any]:
    """The stored keys of an event; those without a value are left out."""
    if isinstance(event, Unknown):
        return dict(event.content)
    content: dict[str, Any] = _adapter(event.kind).dump_python(event, mode="json", by_alias=True, exclude_none=True)
    return content


class LaterEvent(ValueError):
    """A later version of tsctl wrote it: it has a word or a setting that this version does not know."""


def parse_event(kind: str, content: Mapping[str, Any]) -> Event:
    """The event that was stored with these keys.

    Raises:
        LaterEvent: it has a setting, or names an effect, an outcome and the like, that this version does not know.
        ValueError: a known kind lacks a key, or has a wrong value.
    """
    if not isinstance(kind, str):
        raise ValueError(f"kind {kind!r} is no word")
    if kind not in EVENTS:
        return Unknown(kind, content)
    try:
        event: Event = _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        is_later = first["type"] in ("extra_forbidden", "enum", "literal_error")
        problem = f"{kind}: {first_mistake(error)}"
        raise (LaterEvent if is_later else ValueError)(problem) from None
    return event


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[kind])
