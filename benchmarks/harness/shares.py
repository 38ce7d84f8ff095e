"""Limits processes to a share of a core, by the kernel's scheduler: a control group of their own with a quota."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tsctl.errors import TsctlError
from tsctl.host.wait import wait_until

#: Length of the slices in which the kernel hands out the quota: short, so that a node is never still for long.
PERIOD_US = 20_000
ROOT = Path("/sys/fs/cgroup")
REMOVED_S = 10.0


@contextmanager
def limited(name: str, cores: float) -> Iterator[Path]:
    """A control group whose processes together get at most so much processor time, while the block runs.

    Processes that are left at its end return to the group above it.

    Raises:
        TsctlError: this machine lets nobody make one.
    """
    above, version = _place()
    group = above / f"tsctl-bench-{os.getpid()}-{name}"
    quota = round(cores * PERIOD_US)
    try:
        group.mkdir()
        try:
            if version == 2:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_US}\n")
            else:
                (group / "cpu.cfs_period_us").write_text(f"{PERIOD_US}\n")
                (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            yield group
        finally:
            wait_until(lambda: _is_removed(group, above), REMOVED_S)
    except OSError as error:
        raise TsctlError(
            f"processor time cannot be limited: {error.filename}: {error.strerror}",
            "Run as root, on a machine whose control groups have the controller cpu.",
        ) from None


def move(pids: Iterable[int], group: Path) -> None:
    """These processes are in the group, as will be those that they start; one that has ended is left out."""
    for pid in pids:
        with suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(f"{pid}\n")


def throttled_s(group: Path) -> float:
    """Seconds for which the group's processes together had to wait for the next slice."""
    values = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(values["throttled_usec"]) / 1e6 if "throttled_usec" in values else int(values["throttled_time"]) / 1e9


def _is_removed(group: Path, above: Path) -> bool:
    with suppress(OSError):
        move((int(pid) for pid in (group / "cgroup.procs").read_text().split()), above)
        group.rmdir()
    return not group.is_dir()


def _place() -> tuple[Path, int]:
    """The folder of this process's own control group, and the version of control groups.

    Raises:
        TsctlError: none has the controller for processors.
    """
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "cpu" in controllers.split(","):
            own = ROOT / "cpu" / path.lstrip("/")
            return (own if own.is_dir() else ROOT / "cpu"), 1  # a container sees its own group as the root
    if "cpu" in _controllers(ROOT):
        return ROOT, 2
    raise TsctlError(
        "processor time cannot be limited: no control group has the controller cpu",
        "On cgroup v2, 'echo +cpu > /sys/fs/cgroup/cgroup.subtree_control' as root switches it on.",
    )


def _controllers(folder: Path) -> list[str]:
    file = folder / "cgroup.subtree_control"
    return file.read_text().split() if file.is_file() else []
