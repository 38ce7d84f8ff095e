"""Archives as users of TorchServe have them: the shapes of its own examples of handlers, made by torch-model-archiver.

The models are tiny and their weights random, from a seed. What TorchServe's classes `ImageClassifier` and
`TextClassifier` need (torchvision, torchtext, captum) is not here; the handlers subclass `BaseHandler` as those do.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

STOCK_HANDLER = '''
class Stock:
    """A handler as TorchServe's documentation writes them: decoded JSON in, one bad item fails the batch."""

    def initialize(self, context):
        self.factor = 3

    def handle(self, data, context):
        return [{"y": item["body"]["x"] * self.factor} for item in data]
'''


class Scripted(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Gives x * 2 + 3; its file needs the operators of TorchScript's own format."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [1, 2]
        self.names = {"a": 3}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.sizes[1] + self.names["a"]


def save_torchscript(path: Path) -> None:
    """Write the network to a TorchScript file."""
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(Scripted()).save(path)


#: A classifier of pictures: BaseHandler's own load (model file, state dict, index_to_name.json) and inference.
PICTURES = """
import io

import torch
from PIL import Image
from torch.nn import functional
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label


class Pictures(BaseHandler):
    topk = 2

    def preprocess(self, data):
        pictures = []
        for row in data:
            picture = row.get("data") or row.get("body")
            with Image.open(io.BytesIO(picture)) as opened:
                pixels = torch.frombuffer(bytearray(opened.convert("L").resize((8, 8)).tobytes()), dtype=torch.uint8)
            pictures.append(pixels.float().reshape(1, 8, 8) / 255)
        return torch.stack(pictures).to(self.device)

    def postprocess(self, data):
        shares, classes = torch.topk(functional.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(shares.tolist(), self.mapping, classes.tolist())
"""
PICTURES_MODEL = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 3))
"""

#: A classifier of texts, one request at a time: a vocabulary from a file, and two values between the steps.
TEXTS = """
import json
import os

import torch
from torch.nn import functional
from ts.torch_handler.base_handler import BaseHandler


class Texts(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        with open(os.path.join(context.system_properties["model_dir"], "vocabulary.json")) as file:
            self.vocabulary = json.load(file)

    def preprocess(self, data):
        text = data[0].get("data") or data[0].get("body")
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        words = text.lower().split()
        return torch.as_tensor([self.vocabulary[word] for word in words], device=self.device), words

    def inference(self, data, *args, **kwargs):
        tokens, words = data
        return super().inference(tokens, torch.as_tensor([0], device=self.device)), words

    def postprocess(self, data):
        scores, words = data
        shares = functional.softmax(scores, dim=1)[0].tolist()
        return [{"World": shares[0], "Sport": shares[1], "words": len(words)}]
"""
TEXTS_MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, tokens, offsets):
        return self.out(self.bag(tokens, offsets))
"""

#: In function style, with a TorchScript file and errors of all kinds.
FUNCTION = """
import torch
from ts.utils.util import PredictionException

network = None


def handle(data, context):
    global network
    if network is None:
        network = torch.jit.load(context.system_properties["model_dir"] + "/model.pt")
    if data is None:
        return None
    answers = []
    for place, row in enumerate(data):
        body = row.get("data") or row.get("body")
        kind = body.get("fail")
        if kind == "exception":
            raise ValueError("a secret of the handler")
        if kind == "memory":
            raise MemoryError
        if kind == "prediction":
            raise PredictionException(body["message"], body["code"])
        if kind == "type":
            return {"no": "list"}
        if kind == "length":
            return []
        if kind == "value":
            return [object()]
        if kind == "item":
            context.set_response_status(code=body["code"], idx=place, phrase="refused")
        answers.append({"y": int(network(torch.tensor(body["x"]))) if "x" in body else None})
    return answers
"""

#: Answers in parts.
STREAM = """
from ts.protocol.otf_message_handler import send_intermediate_predict_response


class Stream:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        texts = [row.get("data") or row.get("body") for row in data]
        for number in range(3):
            parts = [f"{text} {number} " for text in texts]
            send_intermediate_predict_response(parts, context.request_ids, "Intermediate", 200, context)
        return ["end" for _ in texts]
"""


def archived(folder: Path, model: str, version: str, handler: str, *arguments: str | Path) -> Path:
    """FOLDER/MODEL-VERSION.mar, made by torch-model-archiver."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{model}-{version.replace('.', '_')}"
    (folder / f"{model}_handler.py").write_text(handler)
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    subprocess.run(
        [archiver, "--model-name", model, "--version", version, "--handler", folder / f"{model}_handler.py",
         "--export-path", folder, "--force", *arguments], check=True, timeout=60,
    )  # fmt: skip
    return (folder / f"{model}.mar").rename(folder / f"{name}.mar")


def pictures(folder: Path, version: str = "1.0", handler: str = PICTURES) -> Path:
    """A classifier of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures_net.py").write_text(PICTURES_MODEL)
    (folder / "index_to_name.json").write_text(json.dumps({"0": "cat", "1": "dog", "2": "horse"}))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    torch.save(network.state_dict(), folder / "pictures.pth")
    return archived(
        folder, "pictures", version, handler, "--model-file", folder / "pictures_net.py", "--serialized-file",
        folder / "pictures.pth", "--extra-files", folder / "index_to_name.json",
    )  # fmt: skip


def texts(folder: Path, version: str = "1.0", handler: str = TEXTS) -> Path:
    """A classifier of texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts_net.py").write_text(TEXTS_MODEL)
    (folder / "vocabulary.json").write_text(json.dumps({"a": 0, "match": 1, "in": 2, "parliament": 3}))
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"bag": torch.nn.EmbeddingBag(4, 4), "out": torch.nn.Linear(4, 2)})
    torch.save(network.state_dict(), folder / "texts.pth")
    return archived(
        folder, "texts", version, handler, "--model-file", folder / "texts_net.py", "--serialized-file",
        folder / "texts.pth", "--extra-files", folder / "vocabulary.json",
    )  # fmt: skip


def function(folder: Path, version: str = "1.0") -> Path:
    """A function, and a network in TorchScript."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torchscript(folder / "model.pt")
    return archived(folder, "function", version, FUNCTION, "--serialized-file", folder / "model.pt")


def stream(folder: Path, version: str = "1.0") -> Path:
    """A handler that answers in parts."""
    return archived(folder, "stream", version, STREAM)


def picture() -> bytes:
    """A request to `pictures`."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(content, "PNG")
    return content.getvalue()


#: Name of a sample of each model, and its body.
SAMPLES = {
    "pictures": ("gradient.png", picture()),
    "texts": ("parliament.txt", b"A match in parliament"),
    "function": ("two.json", b'{"x": 2}'),
    "stream": ("part.txt", b"part"),
}
MAKERS = {"pictures": pictures, "texts": texts, "function": function, "stream": stream}
