"""The files of the ten models, as their libraries write them: small, with random or quickly fitted weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON = "application/json"


@dataclass(frozen=True)
class OwnModel:
    """A model as its user has it."""

    key: str
    words: str
    write: Callable[[Path, str], Path]  # into a folder, as a version; the file or folder that the user has
    sample: tuple[str, bytes] | None  # name and content of a request; None: tsctl has one for such a model
    network: str = ""  # of weights: the user's file with the network, edited for tsctl
    media_type: str = JSON


def _voice(folder: Path, version: str) -> Path:
    import torch

    class Voice(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
        """A probability of speech for each 256 samples."""

        def __init__(self) -> None:
            super().__init__()
            self.front = torch.nn.Conv1d(1, 8, 256, stride=256)
            self.head = torch.nn.Conv1d(8, 1, 1)

        def forward(self, sound: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.head(torch.relu(self.front(sound.unsqueeze(1))))).squeeze(1)

    torch.manual_seed(1)
    path = folder / "voice.pt"
    torch.jit.save(torch.jit.script(Voice().eval()), path)
    return path


_PNET = '''"""The first network of MTCNN: where in a picture a face may be."""

import torch
from torch import nn


class Network(nn.Module):
    """Probabilities of a face for pictures of shape (B, 3, H, W)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv4_1 = nn.Conv2d(16, 2, 1)

    def forward(self, pictures):
        inner = self.prelu2(self.conv2(self.prelu1(self.conv1(pictures))))
        return self.conv4_1(inner).mean(dim=(2, 3))
'''
#: What the user adds for tsctl.
_BUILD = '''

def build(settings):
    """The network that archive.yaml's settings describe."""
    return Network()
'''


def _mtcnn(folder: Path, version: str) -> Path:
    import torch

    namespace: dict[str, Any] = {}
    exec(compile(_PNET, "pnet.py", "exec"), namespace)  # noqa: S102 - the text above
    torch.manual_seed(2)
    path = folder / "pnet.pt"
    torch.save(namespace["Network"]().state_dict(), path)
    return path


def _classifier(folder: Path, version: str) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "where", "is", "my", "parcel", "refund", "please", "hello"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=len(words), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64,
        id2label={0: "delivery", 1: "refund", 2: "other"}, label2id={"delivery": 0, "refund": 1, "other": 2},
    )  # fmt: skip
    path = folder / "wishes"
    DistilBertForSequenceClassification(config).save_pretrained(path, safe_serialization=True)
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
    return path


def _pipeline(folder: Path, version: str) -> Path:
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_iris()
    path = folder / "iris.joblib"
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target), path, compress=3)
    return path


def _lightgbm(folder: Path, version: str) -> Path:
    import lightgbm
    from sklearn.datasets import load_wine

    data = load_wine()
    trained = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(data.data[:, :4], data.target),
        num_boost_round=5,
    )
    path = folder / "wine.txt"
    trained.save_model(path)
    return path


def _onnx(folder: Path, version: str) -> Path:
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy.random.default_rng(4).standard_normal((3, 2)).astype(numpy.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["measures", "weights"], ["scores"])],
        "line",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    path = folder / "line.onnx"
    onnx.save(model, path)
    return path


_PICTURES = """
import io
import torch
from PIL import Image
from torch.nn import functional
from ts.torch_handler.base_handler import BaseHandler


class Pictures(BaseHandler):
    def preprocess(self, data):
        pictures = []
        for row in data:
            with Image.open(io.BytesIO(row.get("data") or row.get("body"))) as opened:
                pixels = bytearray(opened.convert("L").resize((8, 8)).tobytes())
            pictures.append(torch.frombuffer(pixels, dtype=torch.uint8).float().reshape(1, 64) / 255)
        return torch.cat(pictures).to(self.device)

    def postprocess(self, data):
        shares = functional.softmax(data, dim=1)
        return [{"dark": float(row[0]), "light": float(row[1])} for row in shares]
"""
_TEXTS = """
import torch
from ts.torch_handler.base_handler import BaseHandler


class Texts(BaseHandler):
    def preprocess(self, data):
        rows = []
        for row in data:
            body = row.get("data") or row.get("body")
            text = body["text"] if isinstance(body, dict) else bytes(body).decode()
            counts = torch.zeros(64)
            for word in text.lower().split():
                counts[sum(word.encode()) % 64] += 1
            rows.append(counts)
        return torch.stack(rows).to(self.device)

    def postprocess(self, data):
        return [{"class": int(row.argmax()), "scores": row.tolist()} for row in data]
"""
_FUNCTION = """
model = None


def handle(data, context):
    global model
    if not data:
        model = {"factor": 3}
        return None
    return [{"y": row["body"]["x"] * model["factor"]} for row in data]
"""
_STREAM = """
from ts.protocol.otf_message_handler import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class Stream(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        for number in range(3):
            parts = [f"{row['body']['word']} {number} " for row in data]
            send_intermediate_predict_response(parts, context.request_ids, "Intermediate", 200, context)
        return ["end" for _ in data]
"""
_NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 2))
"""


def _stock(name: str, handler: str, has_network: bool) -> Callable[[Path, str], Path]:
    def write(folder: Path, version: str) -> Path:
        import torch

        path = folder / "handler.py"
        path.write_text(handler)
        command = [
            str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", name, "--version", version,
            "--handler", str(path), "--export-path", str(folder),
        ]  # fmt: skip
        if has_network:
            (folder / "net.py").write_text(_NET)
            torch.manual_seed(5)
            torch.save({"0.weight": torch.randn(2, 64), "0.bias": torch.zeros(2)}, folder / "net.pt")
            command += ["--model-file", str(folder / "net.py"), "--serialized-file", str(folder / "net.pt")]
        subprocess.run(command, check=True, capture_output=True)
        return folder / f"{name}.mar"

    return write


def _png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (8, 8), 200).save(buffer, "PNG")
    return buffer.getvalue()


def _as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


FLOATS = [round(0.01 * number, 2) for number in range(512)]
MODELS = (
    OwnModel("voice", "TorchScript, voice activity", _voice, ("frame.json", _as_json({"sound": FLOATS}))),
    OwnModel(
        "mtcnn", "weights of MTCNN's first network", _mtcnn,
        ("face.json", _as_json({"pictures": [[FLOATS[:12]] * 12] * 3})), network=_PNET + _BUILD,
    ),
    OwnModel("wishes", "text classifier, a folder of Hugging Face", _classifier, None),
    OwnModel("iris", "scikit-learn pipeline, joblib", _pipeline, ("one.json", b'{"features": [5.1, 3.5, 1.4, 0.2]}')),
    OwnModel("wine", "LightGBM, text file", _lightgbm, ("one.json", b'{"features": [14.2, 1.7, 2.4, 15.6]}')),
    OwnModel("line", "ONNX", _onnx, ("one.json", b'{"measures": [0.5, 1.0, -1.0]}')),
    OwnModel(
        "pictures", "stock .mar, image classifier", _stock("pictures", _PICTURES, True), ("one.png", _png()),
        media_type="image/png",
    ),
    OwnModel("texts", "stock .mar, text classifier", _stock("texts", _TEXTS, True), ("one.json", b'{"text": "a b"}')),
    OwnModel("times3", "stock .mar, function style", _stock("times3", _FUNCTION, False), ("one.json", b'{"x": 2}')),
    OwnModel("stream", "stock .mar, streaming", _stock("stream", _STREAM, False), ("one.json", b'{"word": "tick"}')),
)  # fmt: skip
