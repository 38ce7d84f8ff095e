"""One row of a table as a request: named columns of numbers, texts or categories, or a list of numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from handlers.errors import LoadError
from handlers.schema import Schema

#: The field of a request whose columns have no names.
UNNAMED = "features"
MOST_MAGNITUDE = 1e300
LONGEST_TEXT = 20_000


class Columns:
    """The columns of a model, in its order.

    Args:
        names: empty: the model knows only how many there are, and a request has them as a list.
        count: of the columns.
        settings: of archive.yaml: `categories` (the possible texts of a column, by its name), `texts` (names of columns
            with any text), `missing` (whether a value may be null or absent, which the model gets as NaN),
            `max_magnitude` (the largest number, either sign).
        missing: where the settings do not say.

    Raises:
        LoadError: the settings name a column that the model does not have.
    """

    def __init__(self, names: Sequence[str], count: int, settings: Mapping[str, Any], missing: bool) -> None:
        self.names = list(names)
        self.categories: dict[str, list[str]] = settings.get("categories", {})
        self.texts: list[str] = settings.get("texts", [])
        self.missing = bool(settings.get("missing", missing))
        if unknown := [name for name in (*self.categories, *self.texts) if name not in self.names]:
            known = ", ".join(self.names) if self.names else "none with a name: set settings.features"
            raise LoadError(f"settings: {unknown[0]} is no column of the model, which has: {known}")
        bound = min(float(settings.get("max_magnitude", MOST_MAGNITUDE)), MOST_MAGNITUDE)
        self._number: Any = Annotated[float, Field(ge=-bound, le=bound)]
        self.request = self._named() if self.names else self._listed(count)

    @property
    def has_texts(self) -> bool:
        """Whether a column holds texts, so that rows are no array of numbers."""
        return bool(self.categories or self.texts)

    def values(self, row: BaseModel) -> list[Any]:
        """The values of one row, in the order of the columns; NaN for a missing number, None for a missing text."""
        if not self.names:
            values = row.values  # type: ignore[attr-defined]  # of the class that `_listed` makes
            return [math.nan if value is None else value for value in values] if self.missing else values
        held = row.__dict__
        found = [held[f"column_{place}"] for place in range(len(self.names))]
        if not self.missing:
            return found
        return [
            math.nan if value is None and not self._is_text(name) else value
            for name, value in zip(self.names, found, strict=True)
        ]

    def _is_text(self, name: str) -> bool:
        return name in self.categories or name in self.texts

    def _named(self) -> type[Schema]:
        # a client's name is an alias, because it may be one that pydantic uses itself
        return create_model(
            "Request",
            __base__=Schema,
            **{f"column_{place}": self._field(name) for place, name in enumerate(self.names)},
        )

    def _field(self, name: str) -> Any:
        kind: Any = self._number
        if name in self.categories:
            kind = Literal[tuple(self.categories[name])]
        elif name in self.texts:
            kind = Annotated[str, Field(max_length=LONGEST_TEXT)]
        return (kind | None, Field(None, alias=name)) if self.missing else (kind, Field(alias=name))

    def _listed(self, count: int) -> type[Schema]:
        number: Any = self._number | None if self.missing else self._number
        values: Any = Annotated[list[number], Field(min_length=count, max_length=count)]
        return create_model("Request", __base__=Schema, values=(values, Field(alias=UNNAMED)))
