"""Prints results to standard output: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from tsctl.errors import printable
from tsctl.views.table import Table


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    typer.echo(json.dumps(value, indent=2, sort_keys=False))


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
