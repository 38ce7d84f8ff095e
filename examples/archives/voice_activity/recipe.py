"""Fits a detector of voices to made-up sounds, and writes it as TorchScript.

A voice is a tone with overtones whose loudness swings some times a second; what is no voice is hiss, hum or silence.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch

RATE, FRAME, BANDS = 8000, 256, 16
STEPS, PENALTY = 30, 1.0
GRID = 2.0**-10

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()


class Detector(torch.nn.Module):
    """The probability of a voice in each frame, shape (B, samples // FRAME), from sounds of shape (B, samples)."""

    def __init__(self) -> None:
        super().__init__()
        angle = 2 * torch.pi * torch.arange(1, FRAME // 2 + 1)[:, None] * torch.arange(FRAME) / FRAME
        window = torch.hann_window(FRAME)
        self.register_buffer("waves", torch.cat([angle.cos() * window, angle.sin() * window])[:, None].contiguous())
        self.classifier = torch.nn.Linear(2 * BANDS, 1)

    def features(self, sound: torch.Tensor) -> torch.Tensor:
        waves = torch.nn.functional.conv1d(sound[:, None], self.waves, stride=256)
        power = waves[:, :128].square() + waves[:, 128:].square()
        bands = (power.reshape(power.shape[0], 16, 8, power.shape[2]).mean(dim=2) + 1e-4).log()
        peaks = (power.reshape(power.shape[0], 16, 8, power.shape[2]).amax(dim=2) + 1e-4).log() - bands
        return torch.cat([bands, peaks], dim=1).transpose(1, 2)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(sound)).squeeze(2).sigmoid()


def voice(pitch: float, seconds: float) -> torch.Tensor:
    """A tone with overtones, louder and softer four times a second."""
    time = torch.arange(int(seconds * RATE)) / RATE
    tones = sum((2 * torch.pi * pitch * k * time).sin() / k for k in range(1, 12))
    return 0.2 * tones * (0.6 + 0.4 * (2 * torch.pi * 4 * time).sin())


torch.set_num_threads(1)
torch.manual_seed(0)
voices = [voice(pitch, 1) + 0.01 * torch.randn(RATE) for pitch in range(100, 300, 10)]
time = torch.arange(RATE) / RATE
others = [loudness * torch.randn(RATE) for loudness in (0, 0.002, 0.01, 0.03, 0.1, 0.2, 0.3)]
others += [0.2 * (2 * torch.pi * hum * time).sin() + 0.002 * torch.randn(RATE) for hum in (50, 60, 1000, 2500)]
network = Detector().eval()
with torch.inference_mode():
    inputs = network.features(torch.stack([*voices, *others])).double()
    target = torch.cat([torch.ones(len(voices)), torch.zeros(len(others))]).double()[:, None].expand(inputs.shape[:2])
    rows, wanted = inputs.reshape(-1, inputs.shape[2]), target.reshape(-1)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    weights = torch.zeros(rows.shape[1], dtype=torch.double)
    for _ in range(STEPS):  # Newton's method: the loss is convex
        chances = (rows @ weights).sigmoid()
        curvature = (rows.T * (chances * (1 - chances))) @ rows + PENALTY * torch.eye(rows.shape[1])
        weights -= torch.linalg.solve(curvature, rows.T @ (chances - wanted) + PENALTY * weights)
    weights = (weights / GRID).round() * GRID
    network.classifier.weight.copy_(weights[None, :-1])
    network.classifier.bias.copy_(weights[-1:])
    right = float((((rows @ weights) > 0) == (wanted > 0.5)).double().mean())
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.export is what comes after TorchScript
    torch.jit.script(network).save(options.out / "model.pt")
print(f"voice_activity {options.version}: {100 * right:.1f} % of {len(wanted)} frames right")
