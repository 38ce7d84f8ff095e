"""Classification of one row of named numbers."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, create_model

from handlers.base import ServingHandler
from handlers.device import tensor_of
from handlers.schema import Schema

#: Decimals of an answer's probability: more than float32 is sure of near one.
DECIMALS = 7


class TabularHandler(ServingHandler):
    """Two classes from named numeric features.

    Settings: `features` (names, in the order of the network's inputs), `labels` (negative, positive), `threshold`
    (least probability of the positive class that answers with its label) and `max_magnitude` (largest number, either
    sign, that a feature may have). The network returns one logit per row.
    """

    def load(self) -> None:
        """The network, and a request model that asks for the archive's features."""
        super().load()
        self.labels: list[str] = self.settings["labels"]
        self.threshold: float = self.settings.get("threshold", 0.5)
        features: list[str] = self.settings["features"]
        # the client's names are aliases, so that a feature may have any name, also one that pydantic uses itself
        self.columns = [f"feature_{i}" for i in range(len(features))]
        bound = float(self.settings.get("max_magnitude", 1e6))
        number = Annotated[float, Field(ge=-bound, le=bound)]
        fields: Any = {column: (number, Field(alias=name)) for column, name in zip(self.columns, features, strict=True)}
        self.Request = create_model("Request", __base__=Schema, **fields)

    def preprocess(self, items: list[BaseModel]) -> torch.Tensor:
        """Float32 tensor of shape (B, features) on `device`."""
        rows = [[getattr(item, column) for column in self.columns] for item in items]
        return tensor_of(rows, self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """Probability of the positive class and the label, from logits of shape (B,) or (B, 1)."""
        probabilities = outputs.double().reshape(-1).sigmoid().tolist()
        return [{"label": self.labels[p >= self.threshold], "probability": round(p, DECIMALS)} for p in probabilities]

    def classify(self, answer: dict[str, Any]) -> str:
        """The label."""
        return str(answer["label"])
