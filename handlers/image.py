"""Image classification from a picture or from bare pixels."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import torch
from PIL import ExifTags, Image
from pydantic import Field, create_model

from handlers.base import ServingHandler
from handlers.contract import JPEG, JSON, PNG
from handlers.device import to_device
from handlers.errors import PayloadTooLarge, RequestError, UndecodableBody
from handlers.pictures import bare_picture
from handlers.records.summary import Features
from handlers.schema import Schema, parse_json, validate

#: Decimals of an answer's probabilities: more than float32 is sure of near one.
DECIMALS = 7

#: Bytes of a batch's pictures from which threads decode them sooner than one does.
WORTH_THREADS = 65_536

#: Scans of a JPEG that are decoded. Encoders make about ten; each costs a pass over all pixels, and takes only 14 bytes
#: of the file, so that a megabyte could keep a worker busy for 20 s.
MOST_SCANS = 100
_SCAN = b"\xff\xda\0"  # the marker, and the high byte of its header's length, which is always zero

#: What a file may say about itself that changes how its grey values are to be seen: orientation and transparency.
_MEANINGFUL = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp", "transparency"})

_FORMATS = {PNG: "PNG", JPEG: "JPEG"}

#: How a picture is turned upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageHandler(ServingHandler):
    """Classifies a grey image.

    Settings: `height` and `width` of the model's input in pixels, `value_max` (the number that a white pixel has in
    JSON), `labels` (one per class, in the order of the network's logits), `top_k`, `max_pixels` (largest picture that
    is decoded).
    """

    media_types = (JSON, PNG, JPEG)

    def load(self) -> None:
        """The network, and a request model that asks for the archive's height, width and range of numbers."""
        super().load()
        self.labels = self.settings["labels"]
        self.shape = (self.settings["height"], self.settings["width"])
        self.value_max = float(self.settings["value_max"])
        self.Request = _pixels_request(*self.shape, self.value_max)
        self.top_k = min(self.settings.get("top_k", 3), len(self.labels))
        self._pool = ThreadPoolExecutor(self.threads, "decode") if self.threads > 1 else None
        self.max_pixels = self.settings.get("max_pixels", 4_000_000)

    def decode(self, body: bytes, media_type: str) -> np.ndarray | tuple[str, bytes]:
        """Grey values from 0 to 1, float32, shape (height, width), out of JSON; a picture is left to `prepare`."""
        return self._grey_values(parse_json(self.Request, body)) if media_type == JSON else (media_type, body)

    def decode_row(self, row: dict[str, Any]) -> np.ndarray:
        """As `decode` of JSON."""
        return self._grey_values(validate(self.Request, row))

    def prepare(self, items: list[Any]) -> list[Any]:
        """Every item as grey values, or why its picture is refused; Pillow lets go of Python while it decodes, so large
        pictures are decoded on as many threads as torch has."""
        size = sum(len(item[1]) for item in items if isinstance(item, tuple))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files: they are answered, or refused
            return list((self._pool.map if self._pool and size > WORTH_THREADS else map)(self._prepared, items))

    def preprocess(self, items: list[np.ndarray]) -> torch.Tensor:
        """Float32 tensor of shape (B, 1, height, width) on `device`."""
        return to_device(torch.from_numpy(np.stack(items)[:, None]), self.device)

    def postprocess(self, outputs: torch.Tensor) -> list[dict[str, Any]]:
        """Label, probabilities in the order of the labels, and the `top_k` best, from logits of shape (B, classes)."""
        probabilities = outputs.double().softmax(dim=1).cpu()
        best = probabilities.topk(self.top_k, dim=1).indices.tolist()
        rounded = np.round(probabilities.numpy(), DECIMALS).tolist()
        return [self._answer(*row) for row in zip(rounded, best, strict=True)]

    def classify(self, answer: dict[str, Any]) -> str:
        """The likeliest label."""
        return str(answer["label"])

    def summarize(self, item: np.ndarray | tuple[str, bytes]) -> Features:
        """Form, width and height as the picture came, in pixels; the mean brightness that the network sees, 0 to 1."""
        prepared = self._prepared(item)
        height, width = self.shape
        form = "JSON"
        if isinstance(item, tuple):
            form = _FORMATS[item[0]]
            with warnings.catch_warnings(), Image.open(io.BytesIO(item[1]), formats=[_FORMATS[item[0]]]) as picture:
                width, height = picture.size
        size: Features = {"form": form, "width": float(width), "height": float(height)}
        return size if isinstance(prepared, RequestError) else size | {"brightness": float(prepared.mean())}

    def redact(self, item: np.ndarray | tuple[str, bytes]) -> Any:
        """A picture as it came; grey values as the pixels of a request, which give the same grey values again."""
        if isinstance(item, tuple):
            return {"media_type": item[0], "body": item[1]}
        return {"pixels": item.astype(np.float64) * self.value_max}

    def _grey_values(self, request: Any) -> np.ndarray:
        return np.asarray(request.pixels, dtype=np.float32) / np.float32(self.value_max)

    def _answer(self, probabilities: list[float], best: list[int]) -> dict[str, Any]:
        top = [{"label": self.labels[i], "probability": probabilities[i]} for i in best]
        return {"label": top[0]["label"], "probabilities": probabilities, "top_k": top}

    def _prepared(self, item: np.ndarray | tuple[str, bytes]) -> np.ndarray | RequestError:
        if not isinstance(item, tuple):
            return item
        try:
            return self._from_picture(*item)
        except RequestError as error:
            return error

    def _from_picture(self, media_type: str, body: bytes) -> np.ndarray:
        height, width = self.shape
        if media_type == JPEG and body.count(_SCAN) > MOST_SCANS:
            raise PayloadTooLarge(f"The picture comes in more than {MOST_SCANS} scans, the most that are decoded.")
        try:
            grey = self._grey(body, media_type)
        except UndecodableBody:  # a damaged comment or profile is no damaged picture
            bare = bare_picture(body)
            if len(bare) == len(body):
                raise
            grey = self._grey(bare, media_type)
        if grey.size != (width, height):
            grey = grey.resize((width, height), Image.Resampling.BOX)
        values = np.frombuffer(grey.tobytes(), dtype=np.uint8)  # twice as fast as Pillow's own array
        return values.reshape(height, width).astype(np.float32) / np.float32(255)

    def _grey(self, body: bytes, media_type: str) -> Image.Image:
        """The picture as it is to be seen, in 8-bit grey: turned as its EXIF says, transparent parts black."""
        try:
            with Image.open(io.BytesIO(body), formats=[_FORMATS[media_type]]) as picture:
                self._check_size(picture)
                picture.load()
                if picture.mode == "L" and not picture.info.keys() & _MEANINGFUL:
                    return picture  # as it is to be seen already; what follows copies it three times
                upright = _upright(picture)
                if upright.mode.startswith("I"):  # 16 bits; convert() would cut all that is brighter than 255
                    return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                if upright.has_transparency_data:
                    colours = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours)
                return upright.convert("L")
        except RequestError:
            raise
        except Image.DecompressionBombError:
            raise PayloadTooLarge(
                f"The picture has more than {self.max_pixels} pixels, the most that may come."
            ) from None
        except Exception as error:  # a broken file makes Pillow raise nearly anything, struct.error and IndexError too
            raise UndecodableBody(f"The body is not a {_FORMATS[media_type]} picture that can be decoded.") from error

    def _check_size(self, picture: Image.Image) -> None:
        if picture.width * picture.height > self.max_pixels:
            raise PayloadTooLarge(
                f"The picture has {picture.width} x {picture.height} pixels; at most {self.max_pixels} may come."
            )


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; as it is where that cannot be read."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything for damaged EXIF, and nobody but the camera made it
        return picture
    return picture if turn is None else picture.transpose(turn)


def _pixels_request(height: int, width: int, value_max: float) -> type[Schema]:
    """A request whose field `pixels` has `height` rows of `width` numbers, from 0 (black) to `value_max` (white)."""
    number = Annotated[float, Field(ge=0, le=value_max)]
    row = Annotated[list[number], Field(min_length=width, max_length=width)]
    rows = Annotated[list[row], Field(min_length=height, max_length=height)]
    return create_model("Request", __base__=Schema, pixels=(rows, ...))
