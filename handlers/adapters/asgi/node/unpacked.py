"""Unpacks archives for a node, each once, into a folder named by its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from handlers.errors import LoadError


def unpack(archive: Path, digest: str, folder: Path) -> Path:
    """The folder with the archive's files, which is made where it is missing.

    Args:
        digest: SHA-256 of the archive.

    Raises:
        LoadError: the archive is not there, is another one, or has no room.
    """
    place = folder / digest
    if place.is_dir():
        return place
    making = folder / f".{digest}.{os.getpid()}"
    try:
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise LoadError(f"{archive.name} in the node's store is not the archive that is to be registered")
            with zipfile.ZipFile(file) as content:
                content.extractall(making)
        making.rename(place)
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{archive.name} cannot be unpacked: {error.strerror or type(error).__name__}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise LoadError(f"{archive.name} is no archive that can be unpacked: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return place


def remove_others(folder: Path, kept: Collection[str]) -> None:
    """Remove the folders of all digests but these, and what an unpacking that was killed left."""
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
