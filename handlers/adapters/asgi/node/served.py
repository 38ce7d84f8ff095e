"""The list of what a node serves, in a file: whatever ends the node, the next start serves the same."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from handlers.contract import MOST_WORKERS

#: The names of models and versions that stand in paths, headers and file names; of archives; SHA-256 in hexadecimal.
NAME, VERSION = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$", r"^[A-Za-z0-9][A-Za-z0-9_.]{0,31}$"
ARCHIVE, DIGEST = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,195}\.mar$", r"^[0-9a-f]{64}$"


@dataclass(frozen=True)
class Entry:
    """One version that the node serves."""

    model: str
    version: str
    archive: str  # file name in the store
    digest: str  # SHA-256 of that file
    workers: int | None  # None: as the archive says, until it is unpacked
    is_default: bool = False  # it answers callers that name no version


def read_served(path: Path) -> list[Entry]:
    """The versions in the file; none where there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("it holds no list")
        entries = [_checked(Entry(**entry)) for entry in content]
        if len({(entry.model, entry.version) for entry in entries}) < len(entries):
            raise ValueError("it names a version twice")
        return entries
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _checked(entry: Entry) -> Entry:
    """The entry; raises ValueError or TypeError where it cannot be one of ours, as its names are parts of paths."""
    for pattern, text in (
        (NAME, entry.model), (VERSION, entry.version), (ARCHIVE, entry.archive), (DIGEST, entry.digest)
    ):  # fmt: skip
        if not re.fullmatch(pattern, text) or text.endswith("\n"):
            raise ValueError(f"{text[:80]!r} is not as {pattern}")
    workers = entry.workers
    if workers is not None and (type(workers) is not int or not 0 <= workers <= MOST_WORKERS):
        raise ValueError(f"{entry.model} {entry.version} has {workers!r} workers")
    if type(entry.is_default) is not bool:
        raise TypeError(f"is_default of {entry.model} {entry.version} is {entry.is_default!r}")
    return entry


def write_served(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file at once: a reader sees the old or the new list, also after a loss of power.

    Raises:
        OSError: it cannot be written; the old list stays.
    """
    making = path.with_name(f".{path.name}.writing")
    try:
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump([asdict(entry) for entry in entries], file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)
