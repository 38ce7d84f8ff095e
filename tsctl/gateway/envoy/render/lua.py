"""Lua sources of filters, with the constants that they share with Python before them. Pure but for reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Constant = str | int | Mapping[int, Mapping[str, str]] | Mapping[str, str]


def lua_source(file: str, **constants: Constant) -> str:
    """The content of the file in this folder, behind `local NAME = value` for each constant."""
    source = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return "".join(f"local {name} = {_literal(value)}\n" for name, value in constants.items()) + source


def _literal(value: Constant) -> str:
    """The value in Lua, whose strings and numbers are written as in JSON where they are ASCII."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{json.dumps(key)}] = {_literal(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value)
