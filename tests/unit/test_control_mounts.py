"""Which mounts a folder as a place may be on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsctl.control.mounts import Mount, fault_of, innermost, mount_of


@pytest.mark.parametrize(
    ("kind", "options", "is_good"),
    [
        ("ext4", "rw,relatime", True),
        ("nfs4", "rw,relatime,vers=4.2,hard,proto=tcp", False),
        ("nfs", "rw,vers=3,acdirmin=0,acdirmax=30", False),
        ("nfs4", "rw,vers=4.2,lookupcache=pos", True),
        ("nfs4", "rw,vers=4.2,lookupcache=none", True),
        ("nfs", "rw,vers=3,noac", True),
        ("nfs", "rw,vers=3,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0", True),
    ],
)
def test_nfs_must_not_remember_that_a_file_is_missing(kind: str, options: str, is_good: bool) -> None:
    assert (fault_of(Mount("/mnt", kind, frozenset(options.split(",")))) is None) == is_good


def test_the_innermost_mount_counts_and_the_last_one_at_its_path() -> None:
    root, shared, hidden, over = (
        Mount(point, kind, frozenset())
        for point, kind in (("/", "ext4"), ("/mnt", "nfs"), ("/mnt/a", "xfs"), ("/mnt/a", "nfs4"))
    )
    mounts = [root, shared, hidden, over]
    assert innermost(mounts, Path("/mnt/a/place")) == over
    assert innermost(mounts, Path("/mnt/b")) == shared
    assert innermost(mounts, Path("/mntx")) == root
    assert innermost([], Path("/x")) is None


def test_this_machine_says_where_a_folder_is(tmp_path: Path) -> None:
    found = mount_of(tmp_path)
    assert found is not None
    assert tmp_path.resolve().is_relative_to(found.point)
