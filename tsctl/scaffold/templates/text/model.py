"""The network of the mood model."""

from typing import Any

import torch


def build(settings: dict[str, Any]) -> torch.nn.Module:
    """Logits of the labels, shape (B, L), from counted words, shape (B, buckets)."""
    return torch.nn.Linear(settings["buckets"], len(settings["labels"]))
