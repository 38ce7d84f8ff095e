"""digits under TorchServe's own BaseHandler, as its documentation writes handlers; what the benchmarks compare with."""

import importlib.util
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from ts.torch_handler.base_handler import BaseHandler


class StockDigits(BaseHandler):
    """Same network, weights and answer as handlers.image, without warm-up, validation or isolation."""

    def initialize(self, context):
        threads = context.model_yaml_config.get("handler", {}).get("threads")
        if threads:
            torch.set_num_threads(threads)
        folder = Path(context.system_properties["model_dir"])
        spec = yaml.safe_load((folder / "archive.yaml").read_text())
        version = context.manifest["model"]["modelVersion"]
        settings = {**spec["settings"], **((spec["versions"][version] or {}).get("settings", {}))}
        loaded = importlib.util.spec_from_file_location("digits_model", folder / "model.py")
        module = importlib.util.module_from_spec(loaded)
        loaded.loader.exec_module(module)
        self.device = torch.device("cpu")
        self.model = module.build(settings)
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.eval()
        self.value_max = settings["value_max"]
        self.initialized = True

    def preprocess(self, data):
        rows = [(item.get("body") or item.get("data"))["pixels"] for item in data]
        return torch.tensor(rows, dtype=torch.float32)[:, None] / self.value_max

    def postprocess(self, data):
        probabilities = data.softmax(dim=1)
        return [{"label": int(p.argmax()), "probabilities": p.tolist()} for p in probabilities]
