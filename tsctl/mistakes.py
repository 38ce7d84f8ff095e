"""Puts the mistakes that pydantic and json find into our own words: no message speaks of their classes. Pure."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

SHOWN_KEYS = 280  # characters of the names that a message lists
_MAPPING = "should be a mapping of keys to values"
#: What is expected, by pydantic's type of the mistake (https://docs.pydantic.dev/latest/errors/validation_errors/).
_EXPECTED = {
    "missing": "missing, and required",
    "union_tag_not_found": "missing, and required",
    "extra_forbidden": "unknown key",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type"), _MAPPING),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
}
_SUBJECT = re.compile(r"(Value error|Assertion failed), |[A-Z][a-z]+ (?=should )")
_LATER = re.compile(r", unable to parse .*| after validation(?=,)")


def expectation(mistake: Mapping[str, Any]) -> str:
    """What was expected in place of this value, for a message that names the value before it.

    Args:
        mistake: one of a ValidationError's `errors()`.
    """
    if mistake["type"] == "union_tag_invalid":
        tags = re.findall(r"'([^']*)'", mistake["ctx"]["expected_tags"])
        return f"unknown{suggestion(mistake['ctx']['tag'], tags)}"
    if (known := _EXPECTED.get(mistake["type"])) is not None:
        return known
    message = str(mistake["msg"])
    begin = _SUBJECT.match(message)
    return _LATER.sub("", message[begin.end() if begin else 0 :])


def place(mistake: Mapping[str, Any]) -> list[str]:
    """The keys and numbers down to the wrong value; of a tagged union, down to its tag."""
    keys = [str(part) for part in mistake["loc"]]
    if mistake["type"].startswith("union_tag"):
        keys.append(mistake["ctx"]["discriminator"].strip("'"))
    return keys


def first_mistake(error: ValidationError) -> str:
    """The first mistake in one line: its place, and what was expected there."""
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(place(first))
    return f"{where}: {expectation(first)}" if where else expectation(first)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is meant, else all of them; empty without any."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]}?"
    return f"; known here: {textwrap.shorten(', '.join(names), SHOWN_KEYS, placeholder=' ...')}" if names else ""


def why_no_json(error: ValueError | RecursionError) -> str:
    """Why a line is no JSON, where reading it ended with this error."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
    if isinstance(error, UnicodeError):
        return "it holds half of a character (a surrogate), which UTF-8 has not"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
