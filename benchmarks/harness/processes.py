"""The processes that a server started."""

from __future__ import annotations

import psutil


def children(parent: int) -> list[int]:
    """Pids of the processes that `parent` started and that still run; none where it has ended."""
    try:
        return [child.pid for child in psutil.Process(parent).children()]
    except psutil.NoSuchProcess:
        return []
