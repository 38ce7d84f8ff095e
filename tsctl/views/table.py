"""A table that is shown on a terminal and in HTML. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressCell:
    """Share of the way to a threshold, from 0 to 1; a terminal adds a bar."""

    share: float

    def __str__(self) -> str:
        return "reached" if self.share >= 1 else f"{int(self.share * 100)}%"


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
