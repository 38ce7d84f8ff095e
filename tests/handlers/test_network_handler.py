"""Weights for the network of model.py: the inputs by the settings, and errors that say what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.errors import LoadError
from handlers.network import NetworkHandler
from tests.handlers.test_onnx_handler import post
from tests.support.workers import Worker, write_archive_folder

INPUTS = [{"name": "x", "shape": ["batch", 3], "dtype": "float32"}]
NETWORK = """
from torch import nn


def build(settings):
    return nn.Linear(3, settings.get("outputs", 1), bias=False)
"""
WEIGHTS = {"weight": torch.tensor([[1.0, 10.0, 100.0]])}


def served(folder: Path, network: str = NETWORK, suffix: str = ".pt", **settings: Any) -> Worker:
    """A worker of the weights above, which answers a sample as it should."""
    weights = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(WEIGHTS, weights)
    else:
        torch.save(WEIGHTS, weights)
    samples, golden = {"one.json": json.dumps({"x": [1, 2, 3]}).encode()}, {"one.json": {"output": [321.0]}}
    archive = write_archive_folder(folder / "toy", samples, golden, {"inputs": INPUTS, **settings}, weights=weights)
    (archive / "model.py").write_text(network)
    return Worker(NetworkHandler(), archive)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_batch_is_answered_by_the_network_with_its_weights(tmp_path: Path, suffix: str) -> None:
    worker = served(tmp_path, suffix=suffix)
    replies = post(worker, {"x": [1, 0, 0]}, {"x": [0, 0, 1]})
    assert [(reply.status, reply.json()) for reply in replies] == [(200, {"output": [1.0]}), (200, {"output": [100.0]})]
    [refused] = post(worker, {"x": [1, 2]})
    assert refused.status == 422


@pytest.mark.parametrize(
    ("reason", "change"),
    {
        "does not say which shapes it takes": {"inputs": []},
        "does not fit the network of model.py": {"outputs": 2},
        r"no function build\(settings\)": {"network": "network = None\n"},
    }.items(),
)
def test_what_does_not_fit_is_told(tmp_path: Path, reason: str, change: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=reason):
        served(tmp_path, **change)
