"""Classification of one row of named numbers."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, create_model

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.schema import Schema


class TabularHandler(ServingHandler):
    """Two classes from named numeric features.

    Settings: `features` (names, in the order of the network's inputs), `labels` (negative, positive) and `threshold`
    (least probability of the positive class that answers with its label). The network returns one logit per row.
    """

    def load(self) -> None:
        super().load()
        self.features: list[str] = self.settings["features"]
        self.labels: list[str] = self.settings["labels"]
        self.threshold: float = self.settings.get("threshold", 0.5)
        self.Request = create_model("Request", __base__=Schema, **{name: (float, ...) for name in self.features})

    def preprocess(self, items: list[BaseModel]) -> torch.Tensor:
        """Float32 tensor of shape (B, features) on `device`."""
        rows = [[getattr(item, name) for name in self.features] for item in items]
        return to_device(torch.tensor(rows, dtype=torch.float32), self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """Probability of the positive class and the label, from logits of shape (B,) or (B, 1)."""
        probabilities = outputs.float().reshape(-1).sigmoid().tolist()
        return [{"label": self.labels[p >= self.threshold], "probability": p} for p in probabilities]
