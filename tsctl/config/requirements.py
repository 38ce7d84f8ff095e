"""The Python packages that one model needs besides those of its node: a list in archive.yaml, or a file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

#: NAME[EXTRA]==VERSION; a marker may follow.
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9._, -]+\])?\s*==\s*(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"(\s*;[^#]*)?"
)
MOST_REQUIREMENTS = 500


def requirement_mistake(line: str) -> str:
    """Why a line is no requirement; empty where it is one."""
    if _PINNED.fullmatch(line):
        return ""
    return "must be NAME==VERSION, as 'pip freeze' writes it: other forms give other packages on another day"


def _pinned(line: str) -> str:
    if mistake := requirement_mistake(line):
        raise ValueError(mistake)
    return line


Requirement = Annotated[str, AfterValidator(_pinned)]
Requirements = Annotated[tuple[Requirement, ...], Field(max_length=MOST_REQUIREMENTS, strict=False)]


def named_version(requirement: str) -> tuple[str, str]:
    """The name, in the form in which names are compared, and the version of a valid requirement."""
    match = _PINNED.fullmatch(requirement)
    assert match is not None  # noqa: S101 - it was validated
    return normal_name(match["name"]), match["version"]


def normal_name(name: str) -> str:
    """A package's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_lines(text: str) -> list[str]:
    """The requirements in a file of pip's form, without comments and hashes' line ends."""
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def sorted_requirements(lines: Iterable[str]) -> list[str]:
    """Each requirement once, in an order that does not depend on how they were written."""
    return sorted(dict.fromkeys(lines), key=str.lower)
