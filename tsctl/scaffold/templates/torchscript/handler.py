"""Answers with a network in TorchScript, which carries its own code."""

import torch
from pydantic import Field

from handlers.base import ServingHandler
from handlers.device import tensor_of
from handlers.schema import Schema


class TrendHandler(ServingHandler):
    """One series per request."""

    class Request(Schema):
        """Eight numbers, in the order of time."""

        series: list[float] = Field(min_length=8, max_length=8)

    def load(self) -> None:
        """The network, from the archive's weights file."""
        self.network = torch.jit.load(self.weights_file, map_location=self.device).eval()

    def preprocess(self, items: list[Request]) -> torch.Tensor:
        """Float32 tensor of shape (B, 8)."""
        return tensor_of([item.series for item in items], self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, float]]:
        """The slope of each series, from outputs of shape (B,)."""
        return [{"slope": slope} for slope in outputs.tolist()]
