"""A decoded row becomes the same item, or the same error, as its JSON."""

from __future__ import annotations

import datetime
import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from handlers.base import ServingHandler
from handlers.errors import RequestError
from handlers.schema import Schema, parse_json, validate
from tests.support.workers import Worker


class Strict(Schema):
    """Fields of the kinds that tensors can fill."""

    number: float
    count: int = 0
    name: str = ""
    is_new: bool | None = None
    matrix: list[list[float]] = []
    pair: tuple[float, float] | None = None
    tags: set[str] | None = None
    day: datetime.date | None = None
    kind: Literal["a", "b"] | None = None
    anything: Any = None


class Lax(BaseModel):
    """A schema of an author who wants values converted."""

    number: float
    count: int = 0
    name: str = ""
    pair: tuple[float, float] | None = None
    day: datetime.date | None = None


scalars = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=4) | st.sampled_from(["a", "2026-01-02", "1.5", "7"])
values = scalars | texts | st.lists(scalars | texts, max_size=3) | st.lists(st.lists(scalars, max_size=2), max_size=2)
names = st.sampled_from([*Strict.model_fields, "unknown"])


def outcome(read: Any) -> Any:
    try:
        item = read()
    except RequestError as error:
        return type(error), error.detail, error.errors
    return [(name, type(value), repr(value)) for name, value in item.__dict__.items()]


@pytest.mark.parametrize("model", [Strict, Lax])
@given(row=st.dictionaries(names, values, max_size=5), number=st.floats(-10, 10))
def test_a_row_is_read_as_its_json(model: type[BaseModel], row: dict[str, Any], number: float) -> None:
    for candidate in (row, {"number": number, **row}):
        body = json.dumps(candidate).encode()
        assert outcome(lambda: validate(model, candidate)) == outcome(lambda: parse_json(model, body))  # noqa: B023


class Reversing(ServingHandler):
    """Has a `decode` of its own, and none for rows."""

    def decode(self, body: bytes, media_type: str) -> Any:
        return media_type, body[::-1]


def test_a_handler_with_a_decode_of_its_own_gets_rows_as_json() -> None:
    assert Reversing().decode_row({"a": [1.0]}) == ("application/json", b'{"a":[1.0]}'[::-1])


def test_pixels_of_a_row_are_the_picture_of_their_json(digits: Worker) -> None:
    handler = digits.entry.worker.handler
    row = json.loads(sorted((digits.folder / "samples").glob("*.json"))[0].read_text())
    assert np.array_equal(handler.decode_row(row), handler.decode(json.dumps(row).encode(), "application/json"))
