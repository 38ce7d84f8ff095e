"""Makes a small network for scikit-learn's digits and writes it with torch.export; the last layer is fitted."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits

PENALTY = 10.0

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()


class Digits(torch.nn.Module):
    """Logits of shape (B, 10) from pixels of shape (B, 8, 8), from 0 (black) to 16 (white)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()
        )
        self.classifier = torch.nn.Linear(32 * 9, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(pixels[:, None] / 16))


torch.set_num_threads(1)
torch.manual_seed(0)
network = Digits().eval()
pixels, digit = (torch.tensor(part) for part in load_digits(return_X_y=True))
pixels = pixels.reshape(-1, 8, 8).float()
held_out = torch.arange(len(pixels)) % 5 == 0
with torch.inference_mode():
    inputs = network.features(pixels[:, None] / 16).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    wanted = 12 * torch.nn.functional.one_hot(digit).double() - 6
    fitted = inputs[~held_out]
    curvature = fitted.T @ fitted + PENALTY * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(curvature, fitted.T @ wanted[~held_out])
    network.classifier.weight.copy_(solution[:-1].T)
    network.classifier.bias.copy_(solution[-1])
    right = float((network(pixels[held_out]).argmax(dim=1) == digit[held_out]).double().mean())
sizes = {"pixels": {0: torch.export.Dim("batch")}}
torch.export.save(torch.export.export(network, (pixels[:2],), dynamic_shapes=sizes), options.out / "model.pt2")
print(f"digits {options.version}: {100 * right:.1f} % of {int(held_out.sum())} held-out digits right")
