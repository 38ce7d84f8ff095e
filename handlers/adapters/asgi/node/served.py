"""The list of what a node serves, in a file: whatever ends the node, the next start serves the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


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
        return [Entry(**entry) for entry in content]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


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
