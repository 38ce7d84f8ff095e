"""The linear layer called in a loop without any server: JSON with the median milliseconds of a call."""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

parser = argparse.ArgumentParser()
parser.add_argument("--folder", type=Path)
parser.add_argument("--weights", type=Path)
parser.add_argument("--sample", type=Path)
parser.add_argument("--calls", type=int)
parser.add_argument("--pause-s", type=float)
options = parser.parse_args()
sys.path.insert(0, str(options.folder))
from model import build  # noqa: E402 - the folder of the model is known only now

torch.set_num_threads(1)
network = build({})
network.load_state_dict(load_file(options.weights))
network.eval()
row = torch.tensor([json.loads(options.sample.read_text())["row"]])
taken = []
with torch.inference_mode():
    for _ in range(options.calls):
        time.sleep(options.pause_s)
        begin = time.perf_counter()
        network(row)
        taken.append((time.perf_counter() - begin) * 1000)
print(json.dumps({"median_ms": statistics.median(taken)}))  # noqa: T201 - what the benchmark reads
