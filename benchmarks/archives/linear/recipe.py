"""Weights that mean nothing: what is measured does not depend on them."""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
weight = torch.arange(640.0).reshape(10, 64) / 640 - 0.5
save_file({"weight": weight, "bias": torch.zeros(10)}, parser.parse_args().out / "model.safetensors")
