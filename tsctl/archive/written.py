"""Handles folders into which an author's code wrote: it may have left anything there but what tsctl expects."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tsctl.archive.container import MAX_FOLDERS
from tsctl.errors import ArchiveError


def require_own(folder: Path) -> None:
    """Check that tsctl, which sees more than the code did, reads only the folder's own files when it reads it.

    Raises:
        ArchiveError: a link leads out of it, something is neither a file nor a folder, or folders are nested too deep.
    """
    inside = folder.resolve()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if len(place.relative_to(folder).parts) > MAX_FOLDERS:
            raise ArchiveError(f"{folder} has folders that are nested more than {MAX_FOLDERS} deep")
        with os.scandir(place) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink() and not path.resolve().is_relative_to(inside):
                    raise ArchiveError(f"{path} is a link that leads out of {folder}", "Copy the file in its place.")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif not (entry.is_symlink() or entry.is_file()):
                    raise ArchiveError(f"{path} is neither a file nor a folder")


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary folder that an author's code may change; afterwards it is gone."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, also where that is nested deeper than Python goes, or may not be read."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], capture_output=True, check=False)
