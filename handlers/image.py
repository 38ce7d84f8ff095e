"""Image classification from a picture or from bare pixels."""

from __future__ import annotations

import io
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.errors import DoesNotFit, PayloadTooLarge, UndecodableBody
from handlers.items import JPEG, JSON, PNG
from handlers.schema import Schema, parse_json


class ImageHandler(ServingHandler):
    """Classifies a grey image.

    Settings: `height` and `width` of the model's input in pixels, `value_max` (the number that a white pixel has in
    JSON), `labels` (one per class, in the order of the network's logits), `top_k`, `max_pixels` (largest picture that
    is decoded).
    """

    class Request(Schema):
        """Rows of pixels, from 0 (black) to the archive's `value_max` (white)."""

        pixels: Annotated[list[list[float]], Field(min_length=1)]

    media_types = (JSON, PNG, JPEG)

    def load(self) -> None:
        super().load()
        self.labels = self.settings["labels"]
        self.shape = (self.settings["height"], self.settings["width"])
        self.value_max = float(self.settings["value_max"])
        self.top_k = min(self.settings.get("top_k", 3), len(self.labels))
        self.max_pixels = self.settings.get("max_pixels", 4_000_000)

    def decode(self, body: bytes, media_type: str) -> np.ndarray:
        """Grey values from 0 to 1, float32, shape (height, width)."""
        if media_type == JSON:
            return self._from_pixels(parse_json(self.Request, body).pixels)
        return self._from_picture(body)

    def preprocess(self, items: list[np.ndarray]) -> torch.Tensor:
        """Float32 tensor of shape (B, 1, height, width) on `device`."""
        return to_device(torch.from_numpy(np.stack(items)[:, None]), self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """Label, probabilities in the order of the labels, and the `top_k` best, from logits of shape (B, classes)."""
        probabilities = outputs.float().softmax(dim=1).cpu()
        best = probabilities.topk(self.top_k, dim=1)
        return [self._answer(*row) for row in zip(probabilities.tolist(), *map(torch.Tensor.tolist, best), strict=True)]

    def _answer(self, probabilities: list[float], values: list[float], indices: list[int]) -> dict[str, Any]:
        top = [{"label": self.labels[i], "probability": p} for i, p in zip(indices, values, strict=True)]
        return {"label": top[0]["label"], "probabilities": probabilities, "top_k": top}

    def _from_pixels(self, rows: list[list[float]]) -> np.ndarray:
        height, width = self.shape
        if len(rows) != height or any(len(row) != width for row in rows):
            raise _pixels_do_not_fit(f"expected {height} rows of {width} numbers")
        values = np.asarray(rows, dtype=np.float32)
        if values.min() < 0 or values.max() > self.value_max:
            raise _pixels_do_not_fit(f"expected numbers from 0 to {self.value_max:g}")
        return values / np.float32(self.value_max)

    def _from_picture(self, body: bytes) -> np.ndarray:
        height, width = self.shape
        try:
            with Image.open(io.BytesIO(body), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > self.max_pixels:
                    raise PayloadTooLarge(
                        f"The picture has {picture.width} x {picture.height} pixels; at most {self.max_pixels} may come."
                    )
                grey = picture.convert("L")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise UndecodableBody("The body is not a PNG or JPEG picture that can be decoded.") from None
        if grey.size != (width, height):
            grey = grey.resize((width, height), Image.Resampling.BOX)
        return np.asarray(grey, dtype=np.float32) / np.float32(255)


def _pixels_do_not_fit(message: str) -> DoesNotFit:
    return DoesNotFit(f"pixels: {message}.", [{"field": "pixels", "message": message}])
