"""Limits of the kernel, as they are on this machine."""

from __future__ import annotations

from pathlib import Path

from tsctl.host.limits import has_inotify

MOST = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())


def test_the_instances_of_inotify_that_are_left_are_seen_and_given_back() -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert has_inotify(2)
    assert not has_inotify(MOST + 1)
    assert has_inotify(2)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
