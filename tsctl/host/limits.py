"""Limits of the kernel on what a process may open."""

from __future__ import annotations

import ctypes
import os


def has_inotify(instances: int) -> bool:
    """Whether the kernel still gives this user so many instances of inotify; all his processes share 128 by default."""
    library = ctypes.CDLL(None, use_errno=True)
    opened: list[int] = [library.inotify_init1(os.O_CLOEXEC) for _ in range(instances)]
    for descriptor in opened:
        if descriptor >= 0:
            os.close(descriptor)
    return min(opened) >= 0
