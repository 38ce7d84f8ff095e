"""Replaces `${NAME}` in the values of a YAML file by variables of the environment. Pure: the variables are an argument.

`${NAME:-default}` has the default where the variable is not set or is empty, and `$$` is a dollar. What a variable
holds is never searched for further names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: A dollar with what makes it more than a character; a `${` without a name and an end is a mistake.
_PART = re.compile(r"\$(?:(\$)|\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?)")
FORMS = "${NAME}, ${NAME:-default}, or $$ for a dollar"


class Unset(ValueError):
    """A variable that is not set and has no default; the message is its name."""


def has_names(text: str) -> bool:
    """Whether the text has a part that `substitute` replaces or refuses."""
    return _PART.search(text) is not None


def names(text: str) -> set[str]:
    """The variables that the text names, well formed or not."""
    return {name for _, name, _ in _PART.findall(text) if name}


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """The text with its names replaced.

    Raises:
        Unset: a variable is missing.
        ValueError: `${` begins no name, or a default holds another name.
    """
    return _PART.sub(lambda part: _value(part, variables), text)


def _value(part: re.Match[str], variables: Mapping[str, str]) -> str:
    dollar, name, default = part.groups()
    if dollar:
        return "$"
    if name is None:
        raise ValueError(f"{part.string[part.start() : part.start() + 20]!r} names no variable; write {FORMS}")
    if default is not None:
        if "${" in default:
            raise ValueError(f"the default of {name} holds another name, and defaults are plain text")
        return variables.get(name) or default
    if name not in variables:
        raise Unset(name)
    return variables[name]
