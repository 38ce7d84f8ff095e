"""Prints results to standard output: tables for people, one JSON document for machines; see docs/scripting.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import typer

from tsctl.errors import TsctlError, printable
from tsctl.views.table import Table

#: Whether this process has printed a JSON document: an error after it is on standard error and in the exit code alone.
_has_printed = False


def print_json(value: Any) -> None:
    """One JSON document, indented; a number that is not finite is null."""
    global _has_printed
    typer.echo(_dumped(value))
    _has_printed = True


def print_objects(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The document that `print_json` prints of the rows as JSON objects, written as they come."""
    global _has_printed
    begin = "["
    for row in rows:
        document = _dumped(dict(zip(columns, row, strict=True))).replace("\n", "\n  ")
        typer.echo(f"{begin}\n  {document}", nl=False)
        begin, _has_printed = ",", True
    typer.echo("[]" if begin == "[" else "\n]")
    _has_printed = True


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, indent=2, allow_nan=False)
    except ValueError:  # JSON has no such number
        return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def json_value(cell: Any) -> Any:
    """A cell of DuckDB as a JSON value: times, identifiers and bytes as text, also in lists and objects.

    A decimal is a number where a double holds it, digit by digit, and text elsewhere.
    """
    if isinstance(cell, bool | int | float | str | None):
        return cell
    if isinstance(cell, Mapping):
        return {key if isinstance(key, str) else str(json_value(key)): json_value(each) for key, each in cell.items()}
    if isinstance(cell, list | tuple):
        return [json_value(each) for each in cell]
    if isinstance(cell, Decimal):
        number = float(cell)
        return number if Decimal(repr(number)) == cell else str(cell)
    return cell.hex() if isinstance(cell, bytes) else str(cell)


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
