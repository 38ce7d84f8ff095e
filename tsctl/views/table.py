"""A table of texts that is shown on a terminal and in HTML. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of texts.

    Args:
        columns: lower case; a name that begins with > stands over numbers, which are aligned to the right.
        has_total: whether the last row sums up the others.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    has_total: bool = False

    @property
    def headings(self) -> list[tuple[str, str]]:
        """Name and kind of each column: number or text."""
        return [(name.removeprefix(">"), "number" if name.startswith(">") else "text") for name in self.columns]
