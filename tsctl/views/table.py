"""A table that is shown on a terminal and in HTML. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of cells."""

    columns: Sequence[str]  # lower case; a name that begins with > stands over numbers, which are aligned to the right
    rows: Sequence[Sequence[str]]
    has_total: bool = False  # whether the last row sums up the others

    @property
    def headings(self) -> list[tuple[str, str]]:
        """Name and kind of each column: number or text."""
        return [(name.removeprefix(">"), "number" if name.startswith(">") else "text") for name in self.columns]

    def lines(self) -> list[str]:
        """Column names in upper case and rows, with the columns aligned."""
        names = [name.upper() for name, _ in self.headings]
        widths = [max(map(len, column)) for column in zip(names, *self.rows, strict=True)]
        formats = [f">{w}" if kind == "number" else f"<{w}" for w, (_, kind) in zip(widths, self.headings, strict=True)]
        return ["  ".join(map(format, row, formats)).rstrip() for row in (names, *self.rows)]
