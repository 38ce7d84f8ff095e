"""digits under BaseHandler from PNG files, each decoded with Pillow, as TorchServe's examples do."""

import io

import numpy as np
import torch
from digits_handler import StockDigits
from PIL import Image


class StockDigitsPng(StockDigits):
    """One picture per request."""

    def preprocess(self, data):
        images = []
        for item in data:
            body = item.get("data") or item.get("body")
            picture = Image.open(io.BytesIO(body)).convert("L").resize((8, 8))
            images.append(torch.from_numpy(np.array(picture, dtype=np.float32) / 255)[None])
        return torch.stack(images).to(self.device)
