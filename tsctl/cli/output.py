"""Prints results to standard output: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from tsctl.views.table import Table


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    typer.echo(json.dumps(value, indent=2, sort_keys=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns, numbers to the right; None becomes '-'."""
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    names = [f">{name}" if is_numeric else name for name, is_numeric in zip(columns, numeric, strict=True)]
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    typer.echo("\n".join(Table(names, cells).lines()))


def plural(count: int, noun: str) -> str:
    """'1 answer', '2 answers'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
