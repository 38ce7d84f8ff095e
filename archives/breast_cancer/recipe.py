"""Fits logistic regression to scikit-learn's breast cancer data and writes model.safetensors.

The loss with its penalty is convex, so there is one best set of weights, and Newton's method reaches it to the last
bits; rounded to a grid they are the same bytes on every machine (decision 0002).
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
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

HELD_OUT = 114
LEAST_RIGHT = 0.96
PENALTY = 1.0
NEWTON_STEPS = 20
#: Weights become multiples of GRID; means and deviations keep four digits.
GRID = 2.0**-10
#: A value that lies closer than this share of its grid to a rounding boundary might round differently elsewhere.
LEAST_MARGIN = 1e-6


def split(features: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training rows, held-out rows (float64), training and held-out labels (1.0 is malignant).

    Raises:
        SystemExit: `features` are not the data set's, in its order.
    """
    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    if features != names:
        sys.exit(f"settings.features must be {', '.join(names)}, in this order")
    malignant = 1.0 - data.target  # scikit-learn's 1 is benign
    parts = train_test_split(data.data, malignant, test_size=HELD_OUT, random_state=0, stratify=malignant)
    training, held_out, training_labels, held_out_labels = (torch.tensor(part) for part in parts)
    return training, held_out, training_labels, held_out_labels


def fit(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Weights and, last, the bias that minimise the penalised log loss; the bias is not penalised."""
    inputs = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
    penalty = torch.full((inputs.shape[1],), PENALTY, dtype=rows.dtype)
    penalty[-1] = 0
    weights = torch.zeros_like(penalty)
    for _ in range(NEWTON_STEPS):
        probabilities = (inputs @ weights).sigmoid()
        gradient = inputs.T @ (probabilities - labels) + penalty * weights
        curvature = (inputs.T * (probabilities * (1 - probabilities))) @ inputs + penalty.diag()
        weights = weights - torch.linalg.solve(curvature, gradient)
    return weights


def rounded(values: torch.Tensor, grid: torch.Tensor | float) -> torch.Tensor:
    """The values as multiples of `grid`.

    Raises:
        SystemExit: one lies so near the middle between two multiples that another machine might choose the other.
    """
    multiples = values / grid
    margin = float(((multiples - 0.5) - (multiples - 0.5).round()).abs().min())
    if margin < LEAST_MARGIN:
        sys.exit(f"a weight lies {margin:.1e} of its grid from a rounding boundary: choose another grid")
    return multiples.round() * grid


def four_digits(values: torch.Tensor) -> torch.Tensor:
    """The values with four significant decimal digits."""
    return rounded(values, 10.0 ** (values.abs().log10().floor() - 3))


def weights_of(rows: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network's state dict in float32, from training rows and labels in float64."""
    mean, deviation = four_digits(rows.mean(dim=0)), four_digits(rows.std(dim=0))
    solution = rounded(fit((rows - mean) / deviation, labels), GRID)
    state = {"0.mean": mean, "0.deviation": deviation, "1.weight": solution[None, :-1], "1.bias": solution[-1:]}
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def write_reference(rows: torch.Tensor, features: list[str], path: Path) -> None:
    """Held-out rows as requests, one in each line: of rows that it was fitted to, a model is too sure."""
    requests = (dict(zip(features, row, strict=True)) for row in rows.tolist())
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings: dict[str, Any] = options.settings

    torch.set_num_threads(1)
    training, held_out, training_labels, held_out_labels = split(settings["features"])
    weights = weights_of(training, training_labels)
    served = build(settings)
    served.load_state_dict(weights)
    with torch.inference_mode():
        share = float(((served(held_out.float())[:, 0] > 0) == (held_out_labels > 0)).double().mean())
    print(f"breast_cancer {options.version}: {100 * share:.1f} % of {HELD_OUT} held-out rows right")
    if share < LEAST_RIGHT:
        sys.exit(f"breast_cancer {options.version}: less than the {100 * LEAST_RIGHT:.0f} % that this recipe promises")
    # one key of metadata at most: the writer's order of several is random
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    write_reference(held_out, settings["features"], options.out / "reference.jsonl")


if __name__ == "__main__":
    main()
