"""The package that brings an archive to every Ray node: the archive, and this tsctl's `handlers` that serve it.

Ray keeps it in the head node's memory and unpacks it once on each node that has a replica. The replica verifies the
archive by its digest before it unpacks it.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from tsctl.archive.sources import files_below, handlers_package

#: Bytes of an archive that Ray's dashboard takes; it refuses a body of 100 MiB.
MOST_BYTES = 95 << 20
#: The same at all times, so that the same content has the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def package_name(digest: str) -> str:
    """Ray's name of the package.

    Args:
        digest: SHA-256 of the archive.
    """
    return f"_ray_pkg_{sha256(f'{core_digest()} {digest}'.encode()).hexdigest()[:32]}.zip"


@lru_cache(1)
def core_digest() -> str:
    """SHA-256 of this tsctl's `handlers`."""
    summed = sha256()
    for name, path in sorted(files_below(handlers_package()).items()):
        summed.update(f"{name}\0{sha256(path.read_bytes()).hexdigest()}\n".encode())
    return summed.hexdigest()


def package(archive: Path) -> bytes:
    """The package of an archive."""
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, path in sorted(files_below(handlers_package()).items()):
            _add(target, f"handlers/{name}", path.read_bytes(), zipfile.ZIP_DEFLATED)
        _add(target, f"archive/{archive.name}", archive.read_bytes(), zipfile.ZIP_STORED)
    return made.getvalue()


def _add(target: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = 0o644 << 16
    target.writestr(entry, content, method)
