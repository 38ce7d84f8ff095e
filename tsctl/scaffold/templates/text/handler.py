"""Says whether a text is friendly."""

from typing import Any

import torch
from pydantic import Field
from words import counts

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.schema import Schema


class MoodHandler(ServingHandler):
    """One text per request."""

    class Request(Schema):
        """A text of at most 10,000 characters."""

        text: str = Field(min_length=1, max_length=10_000)

    def preprocess(self, items: list[Request]) -> torch.Tensor:
        """Float32 tensor of shape (B, buckets)."""
        return to_device(counts([item.text for item in items], self.settings["buckets"]), self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """The likelier label and its probability, from logits of shape (B, labels)."""
        best, places = outputs.double().softmax(dim=1).cpu().max(dim=1)
        labels = self.settings["labels"]
        return [
            {"label": labels[place], "probability": round(probability, 7)}
            for place, probability in zip(places.tolist(), best.tolist(), strict=True)
        ]

    def classify(self, answer: dict[str, Any]) -> str:
        """The label, by which a rollout notices that a version predicts other classes."""
        return str(answer["label"])
