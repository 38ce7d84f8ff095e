"""Logistic regression on standardised features; the standardisation is part of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Standardise(nn.Module):
    """Takes each feature's mean away and divides by its deviation."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - self.mean) / self.deviation


def build(settings: dict[str, Any]) -> nn.Sequential:
    """One logit of the positive class per row, shape (B, 1), from features of shape (B, F).

    Args:
        settings: `features`, the names of the F features.
    """
    width = len(settings["features"])
    return nn.Sequential(Standardise(width), nn.Linear(width, 1))
