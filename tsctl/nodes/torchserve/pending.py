"""The list of versions that a node has still to register again after its start.

It is a file, so that a start which fails or is killed loses none of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from tsctl.errors import NodeError
from tsctl.host.files import make_folder, write_secret
from tsctl.nodes.torchserve.snapshot import ServedVersion


def merge(served: list[ServedVersion], pending: list[ServedVersion]) -> list[ServedVersion]:
    """The versions that a node should serve after a start: those of its last snapshot, and those still pending then.

    A model whose default was still pending gets that default again.
    """
    registered = {(entry.model, entry.version) for entry in served}
    missing = [entry for entry in pending if (entry.model, entry.version) not in registered]
    moved = {entry.model for entry in missing if entry.is_default}
    kept = [replace(entry, is_default=entry.is_default and entry.model not in moved) for entry in served]
    return sorted([*kept, *missing], key=lambda entry: (entry.model, entry.version))


def read_pending(path: Path) -> list[ServedVersion]:
    """The versions that are still to be registered again; none where there is no file.

    Raises:
        NodeError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [ServedVersion(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise NodeError(f"{path} is damaged: {error}", f"Remove it to start the node empty: rm {path}") from error


def write_pending(path: Path, pending: list[ServedVersion]) -> None:
    """Write the list, or remove the file where nothing is left to come back; a reader never sees half of it."""
    if not pending:
        path.unlink(missing_ok=True)
        return
    make_folder(path.parent)
    write_secret(path, json.dumps([asdict(entry) for entry in pending], indent=2) + "\n")


def forget(path: Path, model: str, version: str) -> None:
    """Remove the version from the list, so that it does not come back at the next start."""
    pending = read_pending(path)
    kept = [entry for entry in pending if (entry.model, entry.version) != (model, version)]
    if kept != pending:
        write_pending(path, kept)
