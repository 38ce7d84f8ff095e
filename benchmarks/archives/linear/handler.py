"""Ten scores from 64 numbers."""

import torch
from pydantic import Field

from handlers.base import ServingHandler
from handlers.device import tensor_of
from handlers.schema import Schema


class LinearHandler(ServingHandler):
    """One row per request."""

    class Request(Schema):
        """The row."""

        row: list[float] = Field(min_length=64, max_length=64)

    def preprocess(self, items: list[Request]) -> torch.Tensor:
        """Float32 tensor of shape (B, 64)."""
        return tensor_of([item.row for item in items], self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, list[float]]]:
        """The scores of each row, from shape (B, 10)."""
        return [{"scores": scores} for scores in outputs.tolist()]
