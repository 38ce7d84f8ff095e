"""MiniLM in a loop without any server: JSON with the sentences a second for each batch size.

Tokenising is part of the loop. Sentences go in blocks, whose batches are taken in the order of arrival, and once more
sorted by their number of letters.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

parser = argparse.ArgumentParser()
parser.add_argument("--encoder", type=Path)
parser.add_argument("--sentences", type=Path)
parser.add_argument("--threads", type=int)
parser.add_argument("--batches", type=json.loads)
parser.add_argument("--block", type=int)
parser.add_argument("--seconds", type=float)
options = parser.parse_args()

torch.set_num_threads(options.threads)
tokenizer = Tokenizer.from_file(str(options.encoder / "tokenizer.json"))
tokenizer.enable_padding()
tokenizer.enable_truncation(256)
network = AutoModel.from_pretrained(options.encoder, dtype=torch.float32).eval()
arrived = json.loads(options.sentences.read_text())


def embed(sentences):
    """Unit vectors, one for each sentence."""
    encoded = tokenizer.encode_batch_fast(sentences)
    ids = torch.tensor([one.ids for one in encoded])
    mask = torch.tensor([one.attention_mask for one in encoded])
    states = network(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=1)


def measure(batch, is_sorted=False):
    """Sentences a second, and microseconds of processor time for each; ends after a block once the seconds are over."""
    embed(arrived[:batch])
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < len(arrived) and time.perf_counter() - begin < options.seconds:
        block = arrived[done : done + options.block]
        if is_sorted:
            block = sorted(block, key=len)
        for start in range(0, len(block), batch):
            embed(block[start : start + batch])
        done += len(block)
    took, spent = time.perf_counter() - begin, time.process_time() - cpu
    return {"sentences_s": done / took, "cpu_us": spent / done * 1e6}


with torch.inference_mode():
    embed(arrived[: options.block])
    found = {
        "as they come": {batch: measure(batch) for batch in options.batches},
        "sorted": {batch: measure(batch, is_sorted=True) for batch in options.batches if 4 <= batch < options.block},
    }
print(json.dumps(found))  # noqa: T201 - what the benchmark reads
