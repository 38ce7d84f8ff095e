"""Classification of texts by a transformer: a folder of Hugging Face."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, StringConstraints, create_model

from handlers.arrays import short
from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.errors import LoadError
from handlers.packages import needed
from handlers.schema import Schema

#: Tokens at which a text is cut where neither settings nor the folder say.
MOST_TOKENS = 512
LONGEST_TEXT = 100_000
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT)]

#: One item: ids of its tokens, and which text each belongs to.
Tokens = tuple[list[int], list[int]]


class TextClassificationHandler(ServingHandler):
    """Classifies a text, or a pair of texts, with config.json, safetensors and tokenizer.json of one folder.

    Labels come from the config's `id2label`. A model of one label per text answers `label` and `probabilities`, one of
    several labels (`problem_type: multi_label_classification`) `labels` and `probabilities`, one with a single output
    `value`.

    Settings: `pair` (whether a request has a second text, `pair`), `max_tokens` (where a text is cut), `threshold` (of
    several labels: the least probability that gives one), `top_k` (answer only the likeliest classes, as `top_k`).
    """

    is_fixed_shape = False

    def load(self) -> None:
        """The network and its tokenizer, from the archive alone.

        Raises:
            LoadError: the folder lacks a file, or a package is missing.
        """
        with needed("transformers", "transformers", "handlers.text_classification"):
            from tokenizers import Tokenizer
            from transformers import AutoModelForSequenceClassification
            from transformers.utils.logging import disable_progress_bar

        os.environ["TOKENIZERS_PARALLELISM"] = "true" if self.threads > 1 else "false"
        os.environ["RAYON_NUM_THREADS"] = str(self.threads)
        disable_progress_bar()  # it goes to the worker's log
        folder = self.weights_file.parent
        if missing := [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]:
            raise LoadError(
                f"there is no {missing[0]} beside {self.weights_file.name}: save the model and its tokenizer into one"
                " folder, each with save_pretrained"
            )
        network = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self._most_tokens(network.config))
        self.padding = network.config.pad_token_id or 0
        self.has_types = getattr(network.config, "type_vocab_size", 0) > 1
        self.network = network.to(self.device).eval()
        self.is_several = network.config.problem_type == "multi_label_classification"
        self.is_value = network.config.num_labels == 1
        self.labels = [str(network.config.id2label[place]) for place in range(network.config.num_labels)]
        self.threshold = float(self.settings.get("threshold", 0.5))
        self.top_k: int | None = self.settings.get("top_k")
        self.has_pair = bool(self.settings.get("pair", False))
        fields: Any = {"text": (Text, ...)} | ({"pair": (Text, ...)} if self.has_pair else {})
        self.Request = create_model("Request", __base__=Schema, **fields)

    def prepare(self, items: list[BaseModel]) -> list[Tokens]:
        """Ids of each item's tokens, and which text each belongs to."""
        texts = [tuple(item.__dict__.values()) if self.has_pair else item.__dict__["text"] for item in items]
        return [(encoding.ids, encoding.type_ids) for encoding in self.tokenizer.encode_batch(texts)]

    def probe(self, prepared: list[Tokens], tokens: int) -> int:
        """Classify the sample of middle length, as often as it fits."""
        item = sorted(prepared, key=lambda each: len(each[0]))[len(prepared) // 2]
        count = max(1, tokens // len(item[0]))
        self._logits([item] * count)
        return count * len(item[0])

    def preprocess(self, items: list[Tokens]) -> list[Tokens]:
        """The items as they are: `inference` forms batches of similar length."""
        return items

    def inference(self, inputs: list[Tokens]) -> np.ndarray:
        """Logits of shape (B, labels), float32."""
        lengths = [len(ids) for ids, _ in inputs]
        found = np.empty((len(inputs), len(self.labels)), dtype=np.float32)
        padded = 0
        for part in self.split(lengths):
            found[part] = self._logits([inputs[i] for i in part])
            padded += len(part) * lengths[part[0]]
        self.telemetry.padding(sum(lengths), padded - sum(lengths))
        return found

    def postprocess(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        """The answers, from logits of shape (B, labels)."""
        if self.is_value:
            return [{"value": value} for value in short(outputs[:, 0])]
        wide = outputs.astype(np.float64)
        if self.is_several:
            return [self._several(row) for row in 1 / (1 + np.exp(-wide))]
        chances = np.exp(wide - wide.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return [{"label": self.labels[int(row.argmax())], **self._chances(row)} for row in chances]

    def classify(self, answer: dict[str, Any]) -> str | None:
        """The label of a model of one label per text."""
        return answer.get("label")

    def _several(self, row: np.ndarray) -> dict[str, Any]:
        chosen = [label for label, chance in zip(self.labels, row, strict=True) if chance >= self.threshold]
        return {"labels": chosen, **self._chances(row)}

    def _chances(self, row: np.ndarray) -> dict[str, Any]:
        numbers = short(row.astype(np.float32))
        if self.top_k is None:
            return {"probabilities": numbers}
        best = np.argsort(-row, kind="stable")[: self.top_k]
        return {"top_k": [{"label": self.labels[i], "probability": numbers[i]} for i in best]}

    def _logits(self, items: list[Tokens]) -> np.ndarray:
        """Logits of shape (items, labels); the longest item comes first."""
        shape = (len(items), len(items[0][0]))
        ids, types = np.full(shape, self.padding, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        mask = np.arange(shape[1]) < np.array([len(each) for each, _ in items])[:, None]
        ids[mask] = np.concatenate([each for each, _ in items])
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self.has_types:
            types[mask] = np.concatenate([each for _, each in items])
            inputs["token_type_ids"] = types
        tensors = {name: to_device(torch.from_numpy(array), self.device) for name, array in inputs.items()}
        logits: np.ndarray = self.network(**tensors).logits.float().cpu().numpy()
        return logits

    def _most_tokens(self, config: Any) -> int:
        """Where a text is cut: as the settings say, else what the tokenizer's own file and the network allow."""
        if "max_tokens" in self.settings:
            return int(self.settings["max_tokens"])
        file = self.weights_file.parent / "tokenizer_config.json"
        stated = json.loads(file.read_bytes()).get("model_max_length", MOST_TOKENS) if file.is_file() else MOST_TOKENS
        return int(min(stated, getattr(config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS))
