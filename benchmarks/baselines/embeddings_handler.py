"""MiniLM under TorchServe's own BaseHandler: transformers' tokenizer, padded to the longest of each batch."""

import torch
from transformers import AutoModel, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler


class StockEmbeddings(BaseHandler):
    """One sentence per request."""

    def initialize(self, context):
        torch.set_num_threads(context.model_yaml_config["handler"]["threads"])
        folder = context.system_properties["model_dir"]
        self.context = context
        self.manifest = context.manifest
        self.device = torch.device("cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.initialized = True

    def preprocess(self, data):
        texts = [(item.get("data") or item.get("body"))["text"] for item in data]
        return self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")

    def inference(self, inputs):
        with torch.inference_mode():
            states = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(means, dim=1)

    def postprocess(self, data):
        return [{"embeddings": [vector]} for vector in data.tolist()]
