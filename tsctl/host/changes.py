"""Waits for changes of files below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

#: Files that change together are one change.
POLL_MS = 300


def changes(folder: Path) -> Iterator[None]:
    """Once for each change in the folder, what recipes keep there left out; ends on Ctrl-C.

    Raises:
        ModuleNotFoundError: watchfiles is not installed.
    """
    from watchfiles import DefaultFilter, watch

    ignored = DefaultFilter(ignore_dirs=[*DefaultFilter.ignore_dirs, ".built"])
    for _ in watch(folder, watch_filter=ignored, step=POLL_MS):
        yield
