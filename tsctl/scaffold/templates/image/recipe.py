"""Trains the shapes model on pictures drawn here, and writes model.safetensors. Put yours in their place."""

import argparse
import json
from pathlib import Path

import torch
from model import build
from safetensors.torch import save_file

SHAPES = {
    "bar": ["........", "........", "........", "########", "########", "........", "........", "........"],
    "cross": ["##....##", ".##..##.", "..####..", "...##...", "...##...", "..####..", ".##..##.", "##....##"],
    "ring": ["........", ".######.", ".#....#.", ".#....#.", ".#....#.", ".#....#.", ".######.", "........"],
}

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings", type=json.loads)
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

labels = arguments.settings["labels"]
drawn = torch.tensor([[[pixel == "#" for pixel in row] for row in SHAPES[label]] for label in labels]).double()
noise = torch.rand(100, len(labels), 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pictures = (drawn * 0.75 + noise * 0.25).flatten(0, 1)[:, None]
classes = torch.arange(len(labels)).repeat(100)

network = build(arguments.settings).double()
for parameter in network.parameters():
    torch.nn.init.zeros_(parameter)
optimiser = torch.optim.SGD(network.parameters(), lr=0.2)
for _ in range(100):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(network(pictures), classes).backward()
    optimiser.step()

right = (network(pictures).argmax(dim=1) == classes).double().mean()
print(f"{100 * right:.0f} % of {len(pictures)} pictures right")
# rounded, so that another machine gets the same bytes
state = {name: (torch.round(value * 1024) / 1024).float() for name, value in network.state_dict().items()}
save_file(state, arguments.out / "model.safetensors")
