"""The cores that a process may use follow the CPU quotas of its control groups, of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers.contract import usable_cores

V1_GROUP = "4:memory:/box\n3:cpu,cpuacct:/box\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "99900000 100000"}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {"cpu.max": "500000 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3),
        ("0::/docker/0123", {"cpu.max": "400000 100000"}, 4),
        ("0::/../sibling", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"unified/cpu.max": "600000 100000"}, 6),
        (V1_GROUP, {"cpu,cpuacct/box/cpu.cfs_quota_us": "300000", "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"}, 3),
        (V1_GROUP, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1_GROUP, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (V1_GROUP, {"memory/cpu.max": "100000 100000"}, 8),
        ("", {"cpu.max": "100000 100000"}, 8),
    ],
)
def test_a_quota_lowers_the_cores(tmp_path: Path, group: str, files: dict[str, str], cores: int) -> None:
    for name, content in {"proc/self/cgroup": group, **{f"sys/fs/cgroup/{n}": c for n, c in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_cores(tmp_path) == cores


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8
    assert 1 <= usable_cores() <= 8
