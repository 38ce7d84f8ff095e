"""Trains the network on scikit-learn's digits and writes model.safetensors.

The archive's digest is over these bytes, so they must not depend on the processor: one thread, float64, smooth
operations, and weights rounded to a grid far coarser than what processors disagree by (decision 0002).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from model import build
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HELD_OUT = 360
LEAST_RIGHT = 0.96
EPOCHS = 20
BATCH = 16
LEARNING_RATE = 0.1
WEIGHT_DECAY = 1e-3
#: Weights become multiples of GRID. Training on another processor moved them by less than 1e-13.
GRID = 2.0**-10
#: A weight that lies closer than this to the middle between two multiples might round differently elsewhere.
LEAST_MARGIN = 1e-10


def split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images, held-out images (float64, 0 to 1, shape (N, 1, 8, 8)), training labels, held-out labels."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=HELD_OUT, random_state=0, stratify=labels)
    training, held_out = (torch.tensor(part).reshape(-1, 1, 8, 8) / 16 for part in parts[:2])
    return training, held_out, torch.tensor(parts[2]), torch.tensor(parts[3])


def train(images: torch.Tensor, labels: torch.Tensor, settings: dict[str, Any]) -> nn.Module:
    """A float64 network; the same on every machine but for the last bits of its weights."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    chance = torch.Generator().manual_seed(0)
    network = build(settings).double()
    _initialise(network, chance)
    optimiser = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY, foreach=False
    )
    steps = EPOCHS * -(-len(images) // BATCH)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images), generator=chance).split(BATCH):
            batch = _shifted(images[chosen], chance) if settings["shifted"] else images[chosen]
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(batch), labels[chosen]).backward()
            optimiser.step()
            decay.step()
    return network


def _initialise(network: nn.Module, chance: torch.Generator) -> None:
    # uniform numbers come straight from the generator's integers; normal ones would pass through the machine's log
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.zero_()
                continue
            bound = (3 / parameter[0].numel()) ** 0.5
            parameter.copy_((torch.rand(parameter.shape, generator=chance, dtype=torch.float64) * 2 - 1) * bound)


def _shifted(images: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The images moved together by up to one pixel in each direction; black comes in at the edge."""
    down, right = torch.randint(-1, 2, (2,), generator=chance).tolist()
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, 1 - down : 9 - down, 1 - right : 9 - right]


def on_grid(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as float32 multiples of GRID.

    Raises:
        SystemExit: one lies so near the middle between two multiples that another machine might choose the other.
    """
    margin = min(
        float(((tensor / GRID - 0.5) - (tensor / GRID - 0.5).round()).abs().min()) for tensor in weights.values()
    )
    if margin * GRID < LEAST_MARGIN:
        sys.exit(f"a weight lies {margin * GRID:.1e} from a rounding boundary: choose another seed or grid")
    return {name: ((tensor / GRID).round() * GRID).float() for name, tensor in weights.items()}


def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose likeliest label is right."""
    with torch.inference_mode():
        return float((network(images).argmax(dim=1) == labels).double().mean())


def write_reference(images: torch.Tensor, path: Path) -> None:
    """Held-out images as requests, one in each line: of images that it was trained on, a network is too sure."""
    grey = (images[:, 0] * 16).round().int().tolist()
    path.write_text("".join(json.dumps({"pixels": rows}) + "\n" for rows in grey))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    training, held_out, training_labels, held_out_labels = split()
    weights = on_grid(train(training, training_labels, options.settings).state_dict())
    served = build(options.settings)
    served.load_state_dict(weights)
    share = right(served, held_out.float(), held_out_labels)
    print(f"digits {options.version}: {100 * share:.1f} % of {HELD_OUT} held-out digits right")
    if share < LEAST_RIGHT:
        sys.exit(f"digits {options.version}: less than the {100 * LEAST_RIGHT:.0f} % that this recipe promises")
    # one key of metadata at most: the writer's order of several is random
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    write_reference(held_out, options.out / "reference.jsonl")


if __name__ == "__main__":
    main()
