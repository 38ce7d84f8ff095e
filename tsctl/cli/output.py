"""Prints results to standard output: tables for people, one JSON document for machines; see docs/scripting.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from tsctl.errors import TsctlError, printable
from tsctl.views.table import Table

#: Whether this process has printed a JSON document: an error after it is on standard error and in the exit code alone.
_has_printed = False


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    global _has_printed
    typer.echo(json.dumps(value, indent=2, sort_keys=False))
    _has_printed = True


def error_json(error: TsctlError) -> dict[str, Any]:
    """The members of a JSON document that say what failed; `code` is the exit code of a command that ends with it."""
    return {"error": error.message, "hint": error.hint, "code": error.exit_code}


def print_failure(failure: Mapping[str, Any]) -> None:
    """The JSON document of a command that failed, where it has not printed one."""
    if not _has_printed:
        print_json(failure)


def print_done(document: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """The result of a command that changed something: its JSON document, or lines for people."""
    if as_json:
        print_json(document)
    else:
        for line in lines:
            typer.echo(line)


def as_objects(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object]]:
    """The rows as JSON objects, with the columns as keys."""
    return [dict(zip(columns, row, strict=True)) for row in rows]


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], as_json: bool) -> None:
    """Print rows as JSON objects, or as a table."""
    if as_json:
        print_json(as_objects(columns, rows))
    else:
        print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns, numbers to the right; None becomes '-', True 'yes', and False nothing."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    names = [f">{name}" if is_numeric else name for name, is_numeric in zip(columns, numeric, strict=True)]
    typer.echo("\n".join(Table(names, cells).lines()))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "-" if value is None else printable(str(value))


def plural(count: int, noun: str) -> str:
    """'1 answer', '2 answers'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
