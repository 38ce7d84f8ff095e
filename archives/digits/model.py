"""The network of both versions; SiLU and mean pooling keep its training the same on every machine (decision 0002)."""

from __future__ import annotations

from typing import Any

from torch import nn


def build(settings: dict[str, Any]) -> nn.Sequential:
    """Logits of shape (B, 10) from grey values from 0 to 1 of shape (B, 1, 8, 8).

    Args:
        settings: `channels`, the widths of the two convolutions.
    """
    first, second = settings["channels"]
    return nn.Sequential(
        nn.Conv2d(1, first, kernel_size=3, padding=1),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(first, second, kernel_size=3, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(second * 4 * 4, 10),
    )
