"""What the four models of the benchmark read and answer, whatever server is around them; standard library only.

A feature is what a model computes from: a list of numbers, rows of numbers, or a text. Numbers are what it computes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One model, by the handler of its archive."""

    handler: str  # handlers.tabular, handlers.image, handlers.embedding, or handler for the linear layer
    settings: dict[str, Any]

    def feature(self, request: dict[str, Any]) -> Any:
        """What the model computes from, out of a request's JSON."""
        if self.handler == "handlers.tabular":
            return [request[name] for name in self.settings["features"]]
        return request[self.field]

    @property
    def field(self) -> str:
        """The request's only field, where it has one."""
        return {"handlers.image": "pixels", "handlers.embedding": "text", "handler": "row"}[self.handler]

    @property
    def shape(self) -> list[int]:
        """Of one feature as a tensor; a text is one element."""
        if self.handler == "handlers.tabular":
            return [len(self.settings["features"])]
        if self.handler == "handlers.image":
            return [self.settings["height"], self.settings["width"]]
        return [1] if self.handler == "handlers.embedding" else [64]

    @property
    def is_text(self) -> bool:
        return self.handler == "handlers.embedding"

    @property
    def outputs(self) -> int:
        """How many numbers an answer is made of."""
        return {"handlers.tabular": 1, "handlers.image": 10, "handlers.embedding": 384, "handler": 10}[self.handler]

    def answer(self, numbers: list[float]) -> dict[str, Any]:
        """The answer's JSON, as the archive's own handler gives it."""
        if self.handler == "handlers.tabular":
            label = self.settings["labels"][numbers[0] >= self.settings["threshold"]]
            return {"label": label, "probability": numbers[0]}
        if self.handler == "handlers.embedding":
            return {"embeddings": [numbers]}
        if self.handler == "handler":
            return {"scores": numbers}
        labels = self.settings["labels"]
        best = sorted(range(len(numbers)), key=lambda i: -numbers[i])[: self.settings["top_k"]]
        top = [{"label": labels[i], "probability": numbers[i]} for i in best]
        return {"label": top[0]["label"], "probabilities": numbers, "top_k": top}


def read_task(folder: Path) -> Task:
    """The task of an unpacked archive, from `task.json`, which `write_task` wrote there."""
    return Task(**json.loads((folder / "task.json").read_text(encoding="utf-8")))


def write_task(folder: Path, task: Task) -> None:
    """Write what `read_task` reads."""
    content = {"handler": task.handler, "settings": task.settings}
    (folder / "task.json").write_text(json.dumps(content), encoding="utf-8")
