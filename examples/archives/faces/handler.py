"""Boxes around faces: a handler of one's own for a model of several networks, which reads pictures."""

import io

import numpy as np
import torch
from networks import PNet, RNet, corrected
from PIL import Image

from handlers.base import ServingHandler
from handlers.contract import JPEG, PNG
from handlers.errors import PayloadTooLarge, UndecodableBody
from handlers.weights import load_weights

SHRINK = 0.7071
WINDOW, REFINED = 12, 24


class FacesHandler(ServingHandler):
    """A PNG or JPEG picture; the answer has a box in pixels and a probability for each face."""

    media_types = (PNG, JPEG)
    is_fixed_shape = False

    def load(self):
        """Both networks."""
        self.first, self.second = PNet(), RNet()
        for network, name in ((self.first, "pnet.pt"), (self.second, "rnet.pt")):
            network.load_state_dict(load_weights(self.model_dir / name))
            network.to(self.device).eval()
        self.least, self.overlap = self.settings["least"], self.settings["overlap"]

    def decode(self, body, media_type):
        """Pixels from -1 to 1, shape (3, height, width), float32."""
        try:
            with Image.open(io.BytesIO(body), formats=[media_type.removeprefix("image/").upper()]) as picture:
                if picture.width * picture.height > self.settings["max_pixels"]:
                    raise PayloadTooLarge(f"A picture has at most {self.settings['max_pixels']} pixels.")
                return (np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) - 127.5) / 127.5
        except PayloadTooLarge:
            raise
        except Exception as error:  # Pillow raises nearly anything for a broken file
            raise UndecodableBody(f"The body is not a picture of type {media_type} that can be decoded.") from error

    def preprocess(self, items):
        """Pictures differ in size, so each is a tensor of its own."""
        return [torch.from_numpy(item)[None].to(self.device) for item in items]

    def inference(self, inputs):
        """Boxes (N, 4) and probabilities (N,) of each picture."""
        return [self._faces(pixels) for pixels in inputs]

    def postprocess(self, outputs):
        """The faces from left to right."""
        answers = []
        for boxes, chances in outputs:
            order = boxes[:, 0].argsort().tolist()
            rows = np.round(boxes.cpu().double().numpy(), 1).tolist()
            answers.append({"faces": [{"box": rows[i], "probability": round(chances[i].item(), 4)} for i in order]})
        return answers

    def _faces(self, pixels):
        found = [self._windows(pixels, scale) for scale in self._scales(pixels.shape[2:])]
        boxes = torch.cat([part for part, _ in found]) if found else torch.zeros(0, 4)
        chances = torch.cat([part for _, part in found]) if found else torch.zeros(0)
        keep = suppress(boxes, chances, 0.7)
        boxes = boxes[keep]
        if not len(boxes):
            return boxes, chances[keep]
        windows = torch.cat([self._cut(pixels, box) for box in boxes])
        refined, changes = self.second(windows)
        good = refined[:, 1] >= self.least
        boxes, chances = corrected(boxes[good], changes[good]), refined[good, 1]
        keep = suppress(boxes, chances, self.overlap)
        return boxes[keep], chances[keep]

    def _scales(self, size):
        """The scales at which a face of 24 pixels and more fills a window of the first network."""
        scale, scales = WINDOW / REFINED, []
        while min(size) * scale >= WINDOW:
            scales.append(scale)
            scale *= SHRINK
        return scales

    def _windows(self, pixels, scale):
        small = torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="area")
        chances, changes = self.first(small)
        rows, columns = (chances[0, 1] >= self.least).nonzero(as_tuple=True)
        corner = 2 * torch.stack([columns, rows], dim=1).float()
        boxes = torch.cat([corner, corner + WINDOW], dim=1) / scale
        return corrected(boxes, changes[0, :, rows, columns].T), chances[0, 1, rows, columns]

    def _cut(self, pixels, box):
        """The square around a box, as the second network takes it; what lies outside the picture is grey."""
        x1, y1, x2, y2 = box.tolist()
        half = max(x2 - x1, y2 - y1, 2) / 2
        height, width = pixels.shape[2:]
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        steps = torch.linspace(-half, half, REFINED + 1)[:-1] + half / REFINED
        grid = torch.stack(torch.meshgrid(x + steps, y + steps, indexing="xy"), dim=-1)
        grid = 2 * grid / torch.tensor([width, height]) - 1
        return torch.nn.functional.grid_sample(pixels, grid[None].to(pixels), align_corners=False)


def suppress(boxes, chances, most):
    """Indices of boxes, best first, without those that overlap a better one by more than a share."""
    kept, order = [], chances.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[order, :2]), torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = order[shared / (area[best] + area[order] - shared) <= most]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)
