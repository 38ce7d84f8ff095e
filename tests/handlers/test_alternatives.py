"""Mistakes in fields that may be one of several things: reported once, at the field as the client wrote it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from handlers.errors import DoesNotFit
from handlers.schema import Schema, parse_json, validate


class Circle(Schema):
    kind: Literal["circle"]
    radius: float


class Square(Schema):
    kind: Literal["square"]
    side: Annotated[float, Field(gt=0)]
    colour: Literal["red", "green"] | list[int] | None = None


class Drawing(Schema):
    name: str | int = ""
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = []
    shape: Circle | Square | None = None
    words: str | Annotated[list[str], Field(max_length=2)] | None = None
    sizes: dict[str, int | list[int]] = {}
    nested: list[int] | list[list[int | str]] | None = None


@pytest.mark.parametrize(
    ("sent", "mistakes"),
    [
        ({"name": []}, [("name", "Input should be a valid string or a valid integer")]),
        ({"words": 5}, [("words", "Input should be a valid string or a valid array")]),
        ({"words": ["a", "b", "c"]}, [("words", "List should have at most 2 items after validation, not 3")]),
        ({"words": ["a", 1]}, [("words.1", "Input should be a valid string")]),
        ({"sizes": {"a": 1, "b": "x"}}, [("sizes.b", "Input should be a valid integer or a valid array")]),
        ({"sizes": {"list[int]": [True]}}, [("sizes.list[int].0", "Input should be a valid integer")]),
        ({"shapes": [{"kind": "square"}]}, [("shapes.0.side", "Field required")]),
        ({"shapes": [{"kind": "circle", "radius": 1}, {"kind": "square", "side": 0}]},
         [("shapes.1.side", "Input should be greater than 0")]),
        ({"shape": {"kind": "square", "side": -1}}, [("shape.side", "Input should be greater than 0")]),
        ({"shape": {"kind": "square", "side": 1, "colour": "blue"}},
         [("shape.colour", "Input should be 'red' or 'green'")]),
        ({"shape": {"kind": "square", "side": 1, "colour": [1, "x"]}},
         [("shape.colour.1", "Input should be a valid integer")]),
        ({"shape": "round"}, [("shape", "Input should be an object")]),
        ({"nested": [[1, None]]}, [("nested.0.1", "Input should be a valid integer or a valid string")]),
        ({"nested": [1, "x"]}, [("nested.1", "Input should be a valid integer")]),
        ({"nmae": "", "words": 5, "name": None},
         [("name", "Input should be a valid string or a valid integer"),
          ("words", "Input should be a valid string or a valid array"), ("nmae", "Extra inputs are not permitted")]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_at_the_clients_field(sent: dict[str, Any], mistakes: list[tuple[str, str]]) -> None:
    with pytest.raises(DoesNotFit) as as_json:
        parse_json(Drawing, json.dumps(sent).encode())
    with pytest.raises(DoesNotFit) as as_object:
        validate(Drawing, sent)
    for refused in (as_json, as_object):
        assert [(each["field"], each["message"]) for each in refused.value.errors or ()] == mistakes
        assert refused.value.detail.startswith(f"{mistakes[0][0]}: {mistakes[0][1]}")


def test_many_mistakes_are_counted_as_before() -> None:
    with pytest.raises(DoesNotFit, match=r"\(29 more\)") as refused:
        parse_json(Drawing, json.dumps({"sizes": {f"s{n}": {} for n in range(30)}}).encode())
    assert [each["field"] for each in refused.value.errors or ()] == [f"sizes.s{n}" for n in range(20)]
