"""The four models as their users write them in torch: features in, numbers out; on a GPU where there is one."""

import importlib.util
import os
import sys
from pathlib import Path

from tasks import read_task

sys.path += [path for path in os.environ.get("PEER_PACKAGES", "").split(":") if path]
import torch


class Network:
    """A model in an unpacked archive; `predict` takes a batch of features."""

    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.task = read_task(Path(folder))
        if self.task.is_text:
            from transformers import AutoModel, AutoTokenizer

            encoder = Path(folder) / "encoder"
            encoder = encoder if encoder.is_dir() else Path(folder)  # an archive of torch-model-archiver is flat
            self.tokenizer = AutoTokenizer.from_pretrained(encoder)
            self.model = AutoModel.from_pretrained(encoder).to(self.device).eval()
        else:
            from safetensors.torch import load_file

            loaded = importlib.util.spec_from_file_location("peer_model", Path(folder) / "model.py")
            module = importlib.util.module_from_spec(loaded)
            loaded.loader.exec_module(module)
            self.model = module.build(self.task.settings)
            self.model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
            self.model.to(self.device).eval()

    def predict(self, features):
        """The numbers of each feature."""
        with torch.inference_mode():
            if self.task.is_text:
                encoded = self.tokenizer(features, padding=True, truncation=True, max_length=256, return_tensors="pt")
                encoded = encoded.to(self.device)
                states = self.model(**encoded).last_hidden_state
                mask = encoded["attention_mask"].unsqueeze(-1).float()
                means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
                return torch.nn.functional.normalize(means, dim=1).tolist()
            inputs = torch.tensor(features, dtype=torch.float32, device=self.device)
            if self.task.handler == "handlers.image":
                return self.model(inputs[:, None] / self.task.settings["value_max"]).softmax(dim=1).tolist()
            outputs = self.model(inputs)
            return (outputs.sigmoid() if self.task.handler == "handlers.tabular" else outputs).tolist()
