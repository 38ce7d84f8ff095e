"""Trains the mood model on a few sentences, and writes model.safetensors. Put your own in their place."""

import argparse
import json
from pathlib import Path

import torch
from model import build
from safetensors.torch import save_file
from words import counts

SENTENCES = {
    "friendly": [
        "Thank you for your kind help", "What a lovely and sunny day", "I am happy that you came",
        "Good work, I like it", "We enjoyed the wonderful evening", "You are welcome, my dear friend",
    ],
    "unfriendly": [
        "This is the worst service ever", "I hate to wait in the rain", "You are late again, how rude",
        "Bad work, I do not like it", "We left the awful evening early", "Go away and leave me alone",
    ],
}  # fmt: skip

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings", type=json.loads)
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

labels = arguments.settings["labels"]
texts = [text for label in labels for text in SENTENCES[label]]
inputs = counts(texts, arguments.settings["buckets"]).double()
classes = torch.tensor([place for place, label in enumerate(labels) for _ in SENTENCES[label]])

network = build(arguments.settings).double()
for parameter in network.parameters():
    torch.nn.init.zeros_(parameter)
optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
for _ in range(100):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(network(inputs), classes).backward()
    optimiser.step()

right = (network(inputs).argmax(dim=1) == classes).double().mean()
print(f"{100 * right:.0f} % of {len(texts)} sentences right")
# rounded, so that another machine gets the same bytes
state = {name: (torch.round(value * 1024) / 1024).float() for name, value in network.state_dict().items()}
save_file(state, arguments.out / "model.safetensors")
