"""What a folder as a place needs of its file system, as far as this machine's mounts tell. Pure but for `mount_of`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NFS = ("nfs", "nfs4")
#: Of NFS; each of them lets a machine see an object that is new, though it looked for it before.
_FRESH = ("lookupcache=pos", "lookupcache=positive", "lookupcache=none", "noac", "acdirmax=0")


@dataclass(frozen=True)
class Mount:
    """A file system, by its kind as `mount` names it, and its options."""

    point: str
    kind: str
    options: frozenset[str]


def mount_of(folder: Path) -> Mount | None:
    """The file system that the folder is on; None where the kernel does not say."""
    import psutil

    mounts = (
        Mount(found.mountpoint, found.fstype, frozenset(found.opts.split(",")))
        for found in psutil.disk_partitions(all=True)
    )
    return innermost(mounts, folder.resolve())


def innermost(mounts: Iterable[Mount], folder: Path) -> Mount | None:
    """The mount with the longest path that the folder is below; of two at one path the later one, which hides it."""
    around = [mount for mount in mounts if folder.is_relative_to(mount.point)]
    return max(reversed(around), key=lambda mount: len(mount.point), default=None)


def fault_of(mount: Mount) -> tuple[str, str] | None:
    """Why a folder on it cannot be a place, and what to do; None where nothing is known against it."""
    if mount.kind in _NFS and mount.options.isdisjoint(_FRESH):
        return (
            f"{mount.point} is mounted so that NFS remembers for up to a minute that a file is missing, so this machine"
            " would not see that another one has taken over",
            "Mount it with the option lookupcache=pos, on every machine.",
        )
    return None
