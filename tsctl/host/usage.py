"""Processor time and memory of processes and of all that they started, from the kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Memory of several processes together.

    A page that several of them share is counted once where the kernel tells the proportional set size, and once for
    each of them where it does not.
    """

    bytes: int
    is_proportional: bool


def process_tree(roots: Iterable[int]) -> list[int]:
    """The pids of these processes and of their descendants, each once; without those that have ended.

    Of one that leads a session, as that of a node does, the rest of its session too: forked workers are no children of
    TorchServe.
    """
    pids: dict[int, None] = {}
    for root in roots:
        with suppress(psutil.Error):
            process = psutil.Process(root)
            pids.update(dict.fromkeys([root, *(child.pid for child in process.children(recursive=True))]))
            if _session_of(root) == root:
                pids.update(dict.fromkeys(pid for pid in psutil.pids() if _session_of(pid) == root))
    return list(pids)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def cpu_seconds(pids: Iterable[int]) -> float:
    """Seconds of processor time that the processes have taken together; one that has ended counts as zero."""
    return sum(_cpu_seconds(pid) for pid in pids)


def memory_of(pids: Iterable[int]) -> Memory:
    """Resident memory of the processes; one that has ended counts as zero."""
    total, is_proportional = 0, True
    for pid in pids:
        try:
            found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        except OSError:
            found = None
        if found is not None:
            total += int(found[1]) << 10
            continue
        with suppress(psutil.Error):
            total += int(psutil.Process(pid).memory_info().rss)
            is_proportional = False
    return Memory(total, is_proportional)


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


class OthersMeter:
    """Measures what programs that are not ours take of this machine's processors, from its making on.

    Args:
        roots: processes of ours beside this one; their descendants are ours too, and so are children that have ended.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = [os.getpid(), *roots]
        self._begin = self._now()

    def share(self) -> float:
        """Of all processors' time since then, from 0 to 1."""
        whole, busy, ours = (now - begin for now, begin in zip(self._now(), self._begin, strict=True))
        return min(1.0, max(0.0, busy - ours) / whole) if whole > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user and nice as well
        whole = sum(times) - guests
        ended = os.times()
        ours = cpu_seconds(process_tree(self._roots)) + ended.children_user + ended.children_system
        nobodys = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "irq", "softirq"))  # packets, for one
        return whole, whole - nobodys, ours
