"""The same layer as TorchServe's users write it: BaseHandler, decoded JSON in, lists out."""

from pathlib import Path

import torch
from model import build
from safetensors.torch import load_file
from ts.torch_handler.base_handler import BaseHandler


class StockLinear(BaseHandler):
    """One row per request."""

    def initialize(self, context):
        """Fill the layer with the weights of the archive, on one thread, which is the best for it."""
        torch.set_num_threads(1)
        folder = Path(context.system_properties["model_dir"])
        self.context = context
        self.manifest = context.manifest
        self.device = torch.device("cpu")
        self.model = build({})
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.eval()
        self.initialized = True

    def preprocess(self, data):
        """Float32 tensor of shape (B, 64)."""
        return torch.tensor([(item.get("data") or item.get("body"))["row"] for item in data])

    def postprocess(self, data):
        """The scores of each row."""
        return [{"scores": scores} for scores in data.tolist()]
