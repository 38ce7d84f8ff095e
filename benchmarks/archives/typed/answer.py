"""The model: one answer from one row. Standard library only, so that every server can import it."""

from typing import Any

#: A row with this text makes the model fail.
FAILING = "fail"


def answer(numbers: list[float], count: int, is_on: bool, text: str) -> dict[str, Any]:
    """A value of each kind; the lengths of the words are an object, and so no tensor."""
    if text == FAILING:
        raise ValueError("the model fails on this text")
    return {
        "total": sum(numbers),
        "doubled": [2 * number for number in numbers],
        "next": count + 1,
        "is_off": not is_on,
        "upper": text.upper(),
        "lengths": {word: len(word) for word in text.split()},
    }
