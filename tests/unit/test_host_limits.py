"""Limits of the kernel, as they are on this machine."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest

from tsctl.host import limits
from tsctl.host.limits import has_inotify, memory_bytes, open_files

MOST = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())


def test_the_instances_of_inotify_that_are_left_are_seen_and_given_back() -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert has_inotify(2)
    assert not has_inotify(MOST + 1)
    assert has_inotify(2)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_open_files_are_those_of_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < open_files() <= 1 << 20
    for hard, expected in ((300, 300), (resource.RLIM_INFINITY, 1 << 20)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, hard=hard: (100, hard))
        assert open_files() == expected


@pytest.mark.parametrize(
    ("content", "is_limit"), [("max\n", False), ("9223372036854771712\n", False), ("1048576\n", True)]
)
def test_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, is_limit: bool
) -> None:
    machine = psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    limit.write_text(content)
    monkeypatch.setattr(limits, "_MEMORY_LIMITS", (limit, tmp_path / "missing"))
    assert memory_bytes() == (1 << 20 if is_limit else machine)
