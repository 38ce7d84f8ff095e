"""Which device and how many threads a worker takes."""

from __future__ import annotations

import pytest
import torch

from handlers.contract import threads_per_worker
from handlers.device import choose_device, to_device


@pytest.mark.parametrize(
    ("gpu_id", "devices", "expected"),
    [
        (None, 0, "cpu"),
        (None, 2, "cpu"),
        (-1, 2, "cpu"),
        (0, 0, "cpu"),
        (0, 1, "cuda:0"),
        (1, 2, "cuda:1"),
        (3, 2, "cuda:1"),
    ],
)
def test_devices(gpu_id: int | None, devices: int, expected: str) -> None:
    assert choose_device(gpu_id, devices) == expected


@pytest.mark.parametrize(
    ("configured", "cores", "workers", "expected"),
    [(None, 8, 1, 8), (None, 8, 3, 2), (None, 2, 4, 1), (None, 1, 0, 1), (3, 8, 8, 3)],
)
def test_threads_share_the_cores_among_the_workers(
    configured: int | None, cores: int, workers: int, expected: int
) -> None:
    assert threads_per_worker(configured, cores, workers) == expected


def test_a_tensor_for_the_cpu_is_not_copied() -> None:
    tensor = torch.ones(2)
    assert to_device(tensor, torch.device("cpu")) is tensor
