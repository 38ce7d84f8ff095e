"""Any bytes to the request schemas of a table's row and of sentences."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel
from ts.service import Service

from handlers.adapters.torchserve.entry import Entry
from handlers.embedding import EmbeddingHandler
from handlers.tabular import TabularHandler
from tests.fuzz import texts
from tests.fuzz.answered import Between, bare
from tests.fuzz.surface import Surface
from tests.support.workers import JSON, Worker, unpacked
from tsctl.archive.container import MANIFEST


def open_surface(folder: Path) -> Surface:
    """Workers of the archives `breast_cancer` and `embeddings`, unpacked below `folder`; the second's encoder is a
    small one, so that the time goes into requests."""
    workers = [
        Worker(TabularHandler(), unpacked("breast_cancer", "1.0", folder / "table")),
        Worker(EmbeddingHandler(), small_encoder(unpacked("embeddings", "1.0", folder / "sentences"))),
    ]
    betweens = [Between(worker) for worker in workers]

    def check(content: bytes) -> None:
        for between in betweens:
            between.check([bare(content, JSON)])

    return Surface(check, seeds(workers), texts.mutate, tokens=texts.ODD)


def small_encoder(folder: Path) -> Path:
    """The unpacked archive, with a seeded encoder of one narrow layer and its own golden answers."""
    words = Tokenizer.from_file(str(folder / "encoder" / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(folder / "encoder")
    manifest = json.loads((folder / MANIFEST).read_text())
    service = Service("embeddings", str(folder), manifest, None, None, 1, True, None)
    (folder / "golden.json").write_text(json.dumps(Entry(EmbeddingHandler()).golden_answers(service.context)))
    return folder


def seeds(workers: list[Worker]) -> dict[str, bytes]:
    """The archives' samples, and documents at the edges of their schemas."""
    found = {
        f"{worker.service.context.model_name}-{path.name}": path.read_bytes()
        for worker in workers
        for path in (worker.folder / "samples").iterdir()
    }
    found["deep"] = b'{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}"
    found["64 sentences"] = json.dumps({"text": ["a b"] * 64}).encode()
    found["65 sentences"] = json.dumps({"text": ["a"] * 65}).encode()
    found["many tokens"] = json.dumps({"text": [". " * 60] * 32}).encode()
    found["a long key"] = json.dumps({"k" * 3000: 1}).encode()
    found["many keys"] = json.dumps({f"k{n}": n for n in range(300)}).encode()
    return found
