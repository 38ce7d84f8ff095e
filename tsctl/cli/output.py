"""Prints results to standard output: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    typer.echo(json.dumps(value, indent=2, sort_keys=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns aligned to their widest cell, numbers to the right; None is printed as '-'."""
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[i]) for row in cells), 0) if cells else len(name) for i, name in enumerate(columns)
    ]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        parts = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip()

    typer.echo(line([name.upper() for name in columns]))
    for row in cells:
        typer.echo(line(row))


def plural(count: int, noun: str) -> str:
    """'1 answer', '2 answers'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
