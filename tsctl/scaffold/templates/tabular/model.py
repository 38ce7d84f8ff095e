"""The network of the pump model."""

from typing import Any

import torch


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """One logit of `failing` per row, shape (B, 1), from the features of `settings`, shape (B, F)."""
    return torch.nn.Linear(len(settings["features"]), 1)
