"""A table that is shown on a terminal and in HTML. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BAR_WIDTH = 16


@dataclass(frozen=True)
class ProgressCell:
    """Share of the way to a threshold, from 0 to 1; lines of text add a bar."""

    share: float

    def __str__(self) -> str:
        return "reached" if self.share >= 1 else f"{int(self.share * 100)}%"

    @property
    def with_bar(self) -> str:
        return f"{self!s:>7}  {'━' * round(self.share * BAR_WIDTH)}"


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Args:
        columns: lower case; a name that begins with > stands over numbers, which are aligned to the right.
        has_total: whether the last row sums up the others.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | ProgressCell]]
    has_total: bool = False

    @property
    def headings(self) -> list[tuple[str, str]]:
        """Name and kind of each column: number or text."""
        return [(name.removeprefix(">"), "number" if name.startswith(">") else "text") for name in self.columns]

    def lines(self) -> list[str]:
        """Column names in upper case and rows, with the columns aligned."""
        names = [name.upper() for name, _ in self.headings]
        texts = [[cell if isinstance(cell, str) else cell.with_bar for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
        formats = [f">{w}" if kind == "number" else f"<{w}" for w, (_, kind) in zip(widths, self.headings, strict=True)]
        return ["  ".join(map(format, row, formats)).rstrip() for row in (names, *texts)]
