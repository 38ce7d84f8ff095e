"""Sentence embeddings: mean of the token states over the attention mask, normalised to length one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field, StringConstraints

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.errors import PayloadTooLarge
from handlers.schema import Schema

#: Decimals of an answer's numbers; what float32 holds of numbers up to one.
DECIMALS = 7

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
Sentences = Annotated[
    list[Sentence],
    Field(min_length=1, max_length=64),
    BeforeValidator(
        lambda text: [text] if isinstance(text, str) else text, json_schema_input_type=Sentence | list[Sentence]
    ),
]


class EmbeddingHandler(ServingHandler):
    """Embeds sentences with a transformers encoder: config.json and tokenizer.json lie beside the archive's weights.

    Settings: `max_tokens`, where a longer sentence is cut; `max_request_tokens`, the most that the sentences of one
    request may have together, so that no request takes a worker from its neighbours for long.
    """

    is_fixed_shape = False

    class Request(Schema):
        """One sentence, or up to 64 of them."""

        text: Sentences

    def load(self) -> None:
        """The encoder and its tokenizer, from the archive alone."""
        # Imported here, for seconds: tokenizers is enough for the text, and AutoModel needs no more of transformers.
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        # a whole batch is tokenised at once, on as many threads as torch has, which wait meanwhile
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if self.threads > 1 else "false"
        os.environ["RAYON_NUM_THREADS"] = str(self.threads)
        disable_progress_bar()  # it goes to the worker's log
        self.max_request_tokens = self.settings.get("max_request_tokens", 4096)
        folder = self.weights_file.parent
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.settings.get("max_tokens", 256))
        network = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        self.padding = network.config.pad_token_id or 0
        self.network = network.to(self.device).eval()

    def prepare(self, items: list[Request]) -> list[list[list[int]] | PayloadTooLarge]:
        """Token ids of each sentence, by item; an item with too many tokens is refused."""
        encodings = iter(self.tokenizer.encode_batch_fast([text for item in items for text in item.text]))
        return [self._checked([next(encodings).ids for _ in item.text]) for item in items]

    def probe(self, prepared: list[list[list[int]]], tokens: int) -> int:
        """Embed the samples' sentence of middle length, as often as it fits."""
        sentences = sorted((sentence for item in prepared for sentence in item), key=len)
        sentence = sentences[len(sentences) // 2]
        count = max(1, tokens // len(sentence))
        self._embed([sentence] * count)
        return count * len(sentence)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """The tokens that `prepare` makes of them."""
        return sum(len(encoding.ids) for encoding in self.tokenizer.encode_batch_fast([text.strip() for text in texts]))

    def preprocess(self, items: list[list[list[int]]]) -> tuple[list[list[int]], list[int]]:
        """All sentences in the order of the items, and the number of sentences of each item."""
        return [sentence for item in items for sentence in item], [len(item) for item in items]

    def inference(self, inputs: tuple[list[list[int]], list[int]]) -> list[torch.Tensor]:
        """Per item, unit vectors of shape (sentences, width), float32 on the CPU."""
        sentences, counts = inputs
        lengths = [len(sentence) for sentence in sentences]
        order: list[int] = []
        found: list[torch.Tensor] = []
        padded = 0
        for part in self.split(lengths):
            order += part
            found.append(self._embed([sentences[i] for i in part]))
            padded += len(part) * lengths[part[0]]
        self.telemetry.padding(sum(lengths), padded - sum(lengths))
        vectors = torch.cat(found).cpu()
        in_order = torch.empty_like(vectors)
        in_order[torch.tensor(order)] = vectors
        return list(in_order.split(counts))

    def postprocess(self, outputs: list[torch.Tensor]) -> list[dict[str, Any]]:
        """`embeddings`: one vector per sentence, also where a single sentence came."""
        return [{"embeddings": np.round(vectors.double().numpy(), DECIMALS).tolist()} for vectors in outputs]

    def _checked(self, sentences: list[list[int]]) -> list[list[int]] | PayloadTooLarge:
        tokens = sum(map(len, sentences))
        if tokens <= self.max_request_tokens:
            return sentences
        return PayloadTooLarge(
            f"The sentences have {tokens} tokens together; at most {self.max_request_tokens} may come."
        )

    def _embed(self, sentences: list[list[int]]) -> torch.Tensor:
        """Unit vectors of shape (sentences, width), float32 on `device`; the longest sentence comes first."""
        ids = np.full((len(sentences), len(sentences[0])), self.padding, dtype=np.int64)
        lengths = np.array([len(sentence) for sentence in sentences])
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = np.concatenate(sentences)
        mask_there = to_device(torch.from_numpy(mask.astype(np.int64)), self.device)
        states = self.network(
            input_ids=to_device(torch.from_numpy(ids), self.device), attention_mask=mask_there
        ).last_hidden_state.float()
        weights = mask_there.unsqueeze(-1).to(states.dtype)
        means = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(means, dim=1)
