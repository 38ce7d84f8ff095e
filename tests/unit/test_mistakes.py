"""Mistakes that pydantic and json find, in words of our own."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from tsctl.mistakes import first_mistake, suggestion, why_no_json


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(le=9)] = 9


class Dog(BaseModel):
    kind: Literal["dog"]


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Shelter(BaseModel, extra="forbid"):
    name: Annotated[str, Field(pattern="^[a-z]+$", max_length=5)] = "a"
    pets: dict[str, Annotated[Cat | Dog, Field(discriminator="kind")]] = {}
    rooms: Annotated[list[Annotated[int, AfterValidator(even)]], Field(min_length=1)] = [2]
    place: tuple[int, int] = (1, 2)
    open: Literal["always", "never"] = "never"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "should be a mapping of keys to values"),
        ({"pets": []}, "pets: should be a mapping of keys to values"),
        ({"pets": {"tom": {"kind": "cta"}}}, "pets.tom.kind: unknown; did you mean cat?"),
        ({"pets": {"tom": {"kind": "whale"}}}, "pets.tom.kind: unknown; known here: cat, dog"),
        ({"pets": {"tom": {}}}, "pets.tom.kind: missing, and required"),
        ({"pets": {"tom": {"kind": "cat", "lives": 10}}}, "pets.tom.cat.lives: should be less than or equal to 9"),
        ({"name": "A"}, "name: should match pattern '^[a-z]+$'"),
        ({"name": "abcdef"}, "name: should have at most 5 characters"),
        ({"rooms": []}, "rooms: should have at least 1 item, not 0"),
        ({"rooms": [3]}, "rooms.0: must be even"),
        ({"rooms": ["x"]}, "rooms.0: should be a valid integer"),
        ({"place": 1}, "place: should be a list"),
        ({"open": "sometimes"}, "open: should be 'always' or 'never'"),
        ({"nme": "a"}, "nme: unknown key"),
    ],
)
def test_a_mistake_has_its_place_and_what_was_expected(content: Any, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Shelter.model_validate(content)
    assert first_mistake(raised.value) == words


def test_a_mistake_in_a_value_alone_has_no_place() -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(Annotated[str, Field(min_length=1)]).validate_python("")
    assert first_mistake(raised.value) == "should have at least 1 character"


def test_a_known_name_is_suggested() -> None:
    assert suggestion("tritn", ["triton", "ray"]) == "; did you mean triton?"
    assert suggestion("x", ["b", "a"]) == "; known here: a, b"
    assert suggestion("x", []) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expecting value at column 1"),
        ("{} {}", "extra data at column 4"),
        ("[" * 100_000, "it is nested too deep"),
    ],
)
def test_a_line_that_is_no_json_is_said_with_its_column(text: str, words: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as raised:
        json.loads(text)
    error = raised.value
    assert isinstance(error, ValueError | RecursionError)
    assert why_no_json(error) == words
