"""Sentence embeddings: mean of the token states over the attention mask, normalised to length one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field, StringConstraints

from handlers.base import ServingHandler
from handlers.device import to_device
from handlers.errors import PayloadTooLarge
from handlers.schema import Schema, parse_json

#: Padded tokens that go through the network at once: bounds the memory that a batch of long requests takes.
CHUNK_TOKENS = 8192
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

    class Request(Schema):
        """One sentence, or up to 64 of them."""

        text: Sentences

    def load(self) -> None:
        """The encoder and its tokenizer, from the archive alone."""
        # Imported here, for seconds: tokenizers is enough for the text, and AutoModel needs no more of transformers.
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # this worker's cores belong to torch's threads
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

    def decode(self, body: bytes, media_type: str) -> list[list[int]]:
        """Token ids of each sentence of one item."""
        request = parse_json(self.Request, body)
        sentences = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(request.text)]
        tokens = sum(map(len, sentences))
        if tokens > self.max_request_tokens:
            raise PayloadTooLarge(
                f"The sentences have {tokens} tokens together; at most {self.max_request_tokens} may come."
            )
        return sentences

    def preprocess(self, items: list[list[list[int]]]) -> tuple[list[list[int]], list[int]]:
        """All sentences in the order of the items, and the number of sentences of each item."""
        return [sentence for item in items for sentence in item], [len(item) for item in items]

    def inference(self, inputs: tuple[list[list[int]], list[int]]) -> list[torch.Tensor]:
        """Per item, unit vectors of shape (sentences, width), float32 on the CPU."""
        sentences, counts = inputs
        vectors: list[torch.Tensor] = [torch.empty(0)] * len(sentences)
        for chunk in _chunks(sentences):
            found = self._embed([sentences[i] for i in chunk])
            for i, vector in zip(chunk, found, strict=True):
                vectors[i] = vector
        edges = pairwise(accumulate(counts, initial=0))
        return [torch.stack(vectors[begin:end]) for begin, end in edges]

    def postprocess(self, outputs: list[torch.Tensor]) -> list[dict[str, Any]]:
        """`embeddings`: one vector per sentence, also where a single sentence came."""
        return [{"embeddings": np.round(vectors.double().numpy(), DECIMALS).tolist()} for vectors in outputs]

    def _embed(self, sentences: list[list[int]]) -> torch.Tensor:
        ids = torch.full((len(sentences), max(map(len, sentences))), self.padding)
        mask = torch.zeros_like(ids)
        for row, sentence in enumerate(sentences):
            ids[row, : len(sentence)] = torch.tensor(sentence)
            mask[row, : len(sentence)] = 1
        mask = to_device(mask, self.device)
        states = self.network(input_ids=to_device(ids, self.device), attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).to(states.dtype)
        means = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(means, dim=1).cpu()


def _chunks(sentences: list[list[int]]) -> Iterator[list[int]]:
    """Indices of sentences that go through the network together, longest first.

    A chunk has at most CHUNK_TOKENS with its padding, and less than half of them are padding.
    """
    chunk: list[int] = []
    for index in sorted(range(len(sentences)), key=lambda i: -len(sentences[i])):
        longest = len(sentences[chunk[0]]) if chunk else 0
        if chunk and (longest * (len(chunk) + 1) > CHUNK_TOKENS or 2 * len(sentences[index]) < longest):
            yield chunk
            chunk = []
        chunk.append(index)
    yield chunk
