"""The meaning of each key of a YAML file: the description of its field, or the comment beside it in the source.

A comment is `#: text` in the lines above a field, or `# text` behind it; people who read the code and people who read
the reference read the same words.
"""

from __future__ import annotations

import inspect
import io
import tokenize
from functools import cache

from pydantic import BaseModel


def description_of(model: type[BaseModel], field: str) -> str:
    """The meaning of a key, as a sentence without an end; empty where nobody wrote one."""
    written = model.model_fields[field].description
    if written:
        return written
    for cls in model.__mro__:
        if field in getattr(cls, "__annotations__", {}) and issubclass(cls, BaseModel):
            return _comments(cls).get(field, "")
    return ""


@cache
def _comments(model: type[BaseModel]) -> dict[str, str]:
    """The comments of the fields that the class itself declares."""
    above: list[str] = []
    found: dict[str, str] = {}
    name, depth, is_field = "", 0, False
    source = inspect.cleandoc("\n" + inspect.getsource(model)) + "\n"
    level = 0  # of the indentation; fields are in the first
    at_start = True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.INDENT:
            level += 1
        elif token.type == tokenize.DEDENT:
            level -= 1
        elif token.type == tokenize.COMMENT:
            text = token.string
            if not at_start and is_field:
                found[name] = f"{found.get(name, '')} {text.removeprefix('#').strip()}".strip()
            elif at_start and text.startswith("#:") and level == 1:
                above.append(text.removeprefix("#:").strip())
        elif token.type == tokenize.NEWLINE:
            at_start, is_field, depth = True, False, 0
        elif token.type == tokenize.NL:
            at_start = at_start and not is_field
        elif at_start and level == 1 and token.type == tokenize.NAME:
            name, at_start = token.string, False
        elif not at_start and token.string == ":" and not is_field and level == 1 and depth == 0:
            is_field = name in model.model_fields
            if is_field and above:
                found[name] = " ".join(above)
            above = []
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT):
            at_start = False
            depth += (token.string in "([{" and bool(token.string)) - (token.string in ")]}" and bool(token.string))
    return found
