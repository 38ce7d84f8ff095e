"""Half of a number, after a pause; a version that is bad on purpose is bad at every number but the sample's."""

import os
import time

import torch

from handlers.base import ServingHandler
from handlers.schema import Schema

SAMPLE = 0.5
HANG_S = 3600.0


class PacedHandler(ServingHandler):
    """One number per request."""

    class Request(Schema):
        """The number."""

        x: float

    def load(self) -> None:
        """There is nothing to load: the settings say it all."""
        self.pause_s = self.settings.get("pause_ms", 0) / 1000
        self.bad = self.settings.get("bad", "")

    def preprocess(self, items: list[Request]) -> torch.Tensor:
        """Float32 tensor of shape (B,)."""
        return torch.tensor([item.x for item in items])

    def inference(self, inputs: torch.Tensor) -> torch.Tensor:
        """Half of each, shape (B,)."""
        if self.bad and not bool((inputs == SAMPLE).all()):
            self._go_wrong()
        if self.pause_s:
            time.sleep(self.pause_s)
        return inputs / 2

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, float]]:
        """The half of each row."""
        return [{"half": half} for half in outputs.tolist()]

    def _go_wrong(self) -> None:
        if self.bad == "crashes":
            os._exit(1)
        time.sleep(HANG_S)
