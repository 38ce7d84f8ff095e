"""A handler as TorchServe's documentation writes them, and a TorchScript file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

STOCK_HANDLER = '''
class Stock:
    """A handler as TorchServe's documentation writes them: decoded JSON in, one bad item fails the batch."""

    def initialize(self, context):
        self.factor = 3

    def handle(self, data, context):
        return [{"y": item["body"]["x"] * self.factor} for item in data]
'''


class Scripted(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Gives x * 2 + 3; its file needs the operators of TorchScript's own format."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [1, 2]
        self.names = {"a": 3}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.sizes[1] + self.names["a"]


def save_torchscript(path: Path) -> None:
    """Write the network to a TorchScript file."""
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(Scripted()).save(path)
