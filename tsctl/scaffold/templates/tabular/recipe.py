"""Trains the pump model on rows that are made up, and writes model.safetensors. Put your own data in their place."""

import argparse
import json
from pathlib import Path

import torch
from model import build
from safetensors.torch import save_file

#: Of temperature (degrees Celsius), vibration (mm/s) and load (0 to 1).
MIDDLE, SPREAD = torch.tensor([[60.0, 5.0, 0.5], [20.0, 2.5, 0.25]], dtype=torch.float64)

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings", type=json.loads)
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

chance = torch.Generator().manual_seed(0)
rows = torch.rand(400, 3, generator=chance, dtype=torch.float64) * 2 - 1
noise = torch.rand(400, generator=chance, dtype=torch.float64) - 0.5
failing = ((rows @ torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64) + noise) > 0.5).double()

network = build(arguments.settings).double()
torch.nn.init.zeros_(network.weight)
torch.nn.init.zeros_(network.bias)
optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
for _ in range(50):
    optimiser.zero_grad()
    torch.nn.functional.binary_cross_entropy_with_logits(network(rows)[:, 0], failing).backward()
    optimiser.step()

with torch.no_grad():
    right = ((network(rows)[:, 0] > 0) == (failing > 0)).double().mean()
    print(f"{100 * right:.0f} % of {len(rows)} rows right")
    # rounded, so that another machine gets the same bytes
    weight, bias = (torch.round(value * 1024) / 1024 for value in (network.weight[0], network.bias[0]))
    weight = weight / SPREAD
    state = {"weight": weight[None], "bias": (bias - (weight * MIDDLE).sum())[None]}
save_file({name: value.float().contiguous() for name, value in state.items()}, arguments.out / "model.safetensors")
