"""Sentence embeddings: mean of the token states over the attention mask, normalised to length one."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.schema import Schema

Sentence = Annotated[str, Field(min_length=1, max_length=20_000)]


class EmbeddingHandler(ServingHandler):
    """Embeds sentences with a transformers encoder that lies in the archive's folder `encoder`.

    Settings: `max_tokens`, where a longer sentence is cut.
    """

    class Request(Schema):
        """One sentence, or up to 64 of them."""

        text: Sentence | Annotated[list[Sentence], Field(min_length=1, max_length=64)]

    def load(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        encoder = self.model_dir / "encoder"
        self.tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        self.network = AutoModel.from_pretrained(encoder, local_files_only=True, use_safetensors=True)
        self.network.to(self.device).eval()
        self.max_tokens = self.settings.get("max_tokens", 256)

    def preprocess(self, items: list[Request]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Token ids and mask of all sentences, int64, shape (S, T) with T <= max_tokens, and sentences per item."""
        texts = [[item.text] if isinstance(item.text, str) else item.text for item in items]
        tokens = self.tokenizer(
            [sentence for sentences in texts for sentence in sentences],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return {name: to_device(t, self.device) for name, t in tokens.items()}, [len(sentences) for sentences in texts]

    def inference(self, inputs: tuple[dict[str, torch.Tensor], list[int]]) -> list[torch.Tensor]:
        """Per item, unit vectors of shape (sentences, width), float32 on the CPU."""
        tokens, counts = inputs
        states = self.network(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        means = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        vectors = torch.nn.functional.normalize(means.float(), dim=1).cpu()
        return list(vectors.split(counts))

    def postprocess(self, outputs: list[torch.Tensor]) -> list[dict[str, Any]]:
        """`embeddings`: one vector per sentence, also where a single sentence came."""
        return [{"embeddings": vectors.tolist()} for vectors in outputs]
