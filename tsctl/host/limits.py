"""Limits of this machine and its kernel on what a process may take."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

import psutil

#: As many open files as anybody needs; a process without a limit gets it.
_MOST_FILES = 1 << 20
#: Of cgroups v2 and v1, as a container sees them.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def open_files() -> int:
    """Files and sockets that a process of this user may have open, once its limit is raised as far as it may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)


def memory_bytes() -> int:
    """The machine's memory, or the part of it that the container has."""
    return min([int(psutil.virtual_memory().total), *_limits_of_container()])


def _limits_of_container() -> list[int]:
    texts = [path.read_text().strip() for path in _MEMORY_LIMITS if path.is_file()]
    return [int(text) for text in texts if text.isdigit()]  # else it is "max"


def has_inotify(instances: int) -> bool:
    """Whether the kernel still gives this user so many instances of inotify; all his processes share 128 by default."""
    library = ctypes.CDLL(None, use_errno=True)
    opened: list[int] = [library.inotify_init1(os.O_CLOEXEC) for _ in range(instances)]
    for descriptor in opened:
        if descriptor >= 0:
            os.close(descriptor)
    return min(opened) >= 0
