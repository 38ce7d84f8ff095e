"""Processor time and children of the processes that serve: what a request costs, whatever else the machine does."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of processor time that the processes have taken together; a process that has ended counts as zero."""
    return sum(_cpu_s(pid) for pid in pids)


def children(parent: int) -> list[int]:
    """Pids of the processes that `parent` started and that still run; none where it has ended."""
    try:
        return [child.pid for child in psutil.Process(parent).children()]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
