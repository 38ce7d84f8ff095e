"""The model as a handler."""

from typing import Any

from pydantic import Field

from handlers.base import ServingHandler
from handlers.schema import Schema
from handlers.weights import import_file


class TypedHandler(ServingHandler):
    """A row with a value of each kind."""

    class Request(Schema):
        """The row."""

        numbers: list[float] = Field(min_length=3, max_length=3)
        count: int
        is_on: bool
        text: str

    def load(self) -> None:
        """There are no weights."""
        self.answer = import_file(self.model_dir / "answer.py").answer

    def preprocess(self, items: list[Request]) -> list[Request]:
        """The rows as they are."""
        return items

    def inference(self, inputs: list[Request]) -> list[dict[str, Any]]:
        """An answer for each row."""
        return [self.answer(item.numbers, item.count, item.is_on, item.text) for item in inputs]

    def postprocess(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers as they are."""
        return outputs
