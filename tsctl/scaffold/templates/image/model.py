"""The network of the shapes model."""

from typing import Any

import torch


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """Logits of the labels, shape (B, L), from grey values from 0 to 1, shape (B, 1, height, width)."""
    pixels = settings["height"] * settings["width"]
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, len(settings["labels"])))
