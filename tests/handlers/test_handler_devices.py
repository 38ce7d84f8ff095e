"""Which device and how many threads a worker takes."""

from __future__ import annotations

import pytest
import torch

from handlers.device import choose_device, threads_per_worker, to_device, usable_cores


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


@pytest.mark.parametrize(("quota", "at_most"), [("100000 100000", 1), ("150000 100000\n", 1), ("50000 100000", 1)])
def test_a_containers_quota_lowers_the_cores(quota: str, at_most: int) -> None:
    assert usable_cores(quota) == at_most


def test_without_a_quota_all_usable_cores_count() -> None:
    assert usable_cores("max 100000") == usable_cores("max") == usable_cores("99900000 100000") >= 1
    assert 1 <= usable_cores() <= usable_cores("max")


def test_a_tensor_for_the_cpu_is_not_copied() -> None:
    tensor = torch.ones(2)
    assert to_device(tensor, torch.device("cpu")) is tensor
