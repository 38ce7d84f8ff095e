"""Makes weights for the first two networks of MTCNN, for drawn faces: ovals with two eyes and a mouth.

The convolutions keep their random numbers, and only the last layers are fitted, by least squares.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from networks import PNet, RNet

PENALTY, WINDOWS = 1e-2, 3000

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()


def drawn(size: int, boxes: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, size, size), from -1 to 1, with a face in each box (x, y, width in shares of the size)."""
    place = (torch.arange(size) + 0.5) / size
    x = (place[None, None, :] - boxes[:, 0, None, None]) / boxes[:, 2, None, None]
    y = (place[None, :, None] - boxes[:, 1, None, None]) / boxes[:, 2, None, None]

    def oval(cx: float, cy: float, rx: float, ry: float) -> torch.Tensor:
        return (20 * (1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2)).sigmoid()

    face = oval(0, 0, 0.45, 0.5)
    dark = (oval(-0.18, -0.12, 0.1, 0.08) + oval(0.18, -0.12, 0.1, 0.08) + oval(0, 0.25, 0.2, 0.07)).clamp(max=1)
    ground = 0.25 * torch.randn(len(boxes), 3, 1, 1) - 0.4
    skin = torch.tensor([0.7, 0.4, 0.2])[:, None, None]
    mask = (face * (1 - dark))[:, None]
    colours = ground * (1 - face[:, None]) + mask * skin + (face * dark)[:, None] * -0.9
    return colours + 0.05 * torch.randn(len(boxes), 3, size, size)


def examples(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows, whether each has a face that fills it, and how its box is to be corrected."""
    boxes = torch.rand(WINDOWS, 3) * torch.tensor([0.16, 0.16, 0.2]) + torch.tensor([0.42, 0.42, 0.85])
    far = torch.rand(WINDOWS, 3) * torch.tensor([2.0, 2.0, 1.6]) + torch.tensor([-0.5, -0.5, 0.2])
    off = ((far[:, :2] - 0.5).abs().amax(dim=1) > 0.25) | (far[:, 2] < 0.6) | (far[:, 2] > 1.4)
    far = far[off]
    both = torch.cat([boxes, far])
    half = both[:, 2:] / 2
    changes = torch.cat([both[:, :2] - half, both[:, :2] + half - 1], dim=1)
    return drawn(size, both), torch.arange(len(both)) < len(boxes), changes


def fit(features: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (outputs, features) and bias (outputs) of a linear layer, by least squares."""
    rows = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    curvature = rows.T @ rows + PENALTY * torch.eye(rows.shape[1])
    solution = torch.linalg.solve(curvature, rows.T @ wanted.double()).float()
    return solution[:-1].T, solution[-1]


torch.set_num_threads(1)
torch.manual_seed(0)
for name, network, size, heads in (
    ("pnet", PNet(), 12, ("conv4_1", "conv4_2")),
    ("rnet", RNet(), 24, ("dense5_1", "dense5_2")),
):
    windows, is_face, changes = examples(size)
    with torch.inference_mode():
        features = network.features(windows).flatten(1)
        scores = torch.stack([~is_face, is_face], dim=1).float() * 6 - 3
        for head, wanted, chosen in ((heads[0], scores, slice(None)), (heads[1], changes, is_face)):
            weight, bias = fit(features[chosen], wanted[chosen])
            layer = getattr(network, head)
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(bias)
        chances, _ = network(windows)
    right = float(((chances.flatten(1)[:, 1] > 0.5) == is_face).double().mean())
    torch.save(network.state_dict(), options.out / f"{name}.pt")
    print(f"faces {options.version}: {name} has {100 * right:.1f} % of {len(is_face)} windows right")
