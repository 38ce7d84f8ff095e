"""The one sentence that a worker ends with where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from handlers.errors import LoadError


@contextmanager
def needed(package: str, install: str, reason: str) -> Iterator[None]:
    """The block imports `package`, which is not everywhere.

    Args:
        package: as it is imported; with dots for a module of it.
        install: what pip is to install.
        reason: who needs it.

    Raises:
        LoadError: it is not installed; any other error of the import comes through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        raise LoadError(
            f"{reason} needs the package {package.partition('.')[0]}: pip install '{install}' where the workers run, or"
            " name it under requirements in archive.yaml"
        ) from error
