"""Where an error comes from, for the author of a model."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from handlers.errors import LoadError
from handlers.schema import Schema, parse_json
from handlers.tracebacks import own_traceback, where


class Row(Schema):
    value: int


def author_s(path: Path, source: str) -> Exception:
    """What a module of an author raises."""
    path.write_text(source)
    with pytest.raises(Exception) as raised:
        runpy.run_path(str(path), {"parse_json": parse_json, "Row": Row})
    error, frames = raised.value, raised.value.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != str(path):
        frames = frames.tb_next  # those of this function and of runpy
    return error.with_traceback(frames)


def test_the_author_s_line_is_named_and_not_the_library_s(tmp_path: Path) -> None:
    error = author_s(tmp_path / "handler.py", "import json\n\njson.loads('{')\n")
    assert where(error).startswith("JSONDecodeError: ")
    assert where(error).endswith("(handler.py, line 3)")


def test_a_traceback_begins_with_the_author_s_code(tmp_path: Path) -> None:
    error = author_s(tmp_path / "handler.py", "def read():\n    parse_json(Row, b'{}')\n\nread()\n")
    lines = own_traceback(error).splitlines()
    assert lines[1] == f'  File "{tmp_path / "handler.py"}", line 4, in <module>'
    assert any("handlers/schema.py" in line for line in lines)  # what the author's line called stays


def test_the_cause_is_cut_too(tmp_path: Path) -> None:
    cause = author_s(tmp_path / "handler.py", "{}['a']\n")
    error = LoadError("must not serve")
    error.__cause__ = cause
    assert own_traceback(error).splitlines()[:2] == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path / "handler.py"}", line 1, in <module>',
    ]


def test_an_error_without_a_place_is_told_without_one() -> None:
    assert where(ValueError("nothing")) == "ValueError: nothing"
    assert own_traceback(ValueError("nothing")) == "ValueError: nothing"
