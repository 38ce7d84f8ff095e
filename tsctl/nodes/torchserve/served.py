"""The versions that a node served before it ended: read from TorchServe's snapshots, kept until they are back.

TorchServe writes a snapshot at every change. It restores one only when it starts without a config file, and stops at
the first model that fails. So tsctl reads the newest whole snapshot, and registers the models again one by one
(start.py). The list of those is a file, so that a start which fails or is killed loses none of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tsctl.errors import NodeError
from tsctl.host.files import make_folder, write_secret
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.properties import parse_properties

#: TorchServe writes a file per change and never removes one.
KEPT_SNAPSHOTS = 20


@dataclass(frozen=True)
class ServedVersion:
    """One version as a node served it."""

    model: str
    version: str
    archive: str  # file name in the model store
    is_default: bool
    min_workers: int
    max_workers: int

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.version


def last_served(folder: Path) -> list[ServedVersion]:
    """The versions in the newest readable snapshot of the folder; empty where there is none.

    A snapshot that a killed node left half-written is skipped for the one before it.
    """
    for path in reversed(_snapshots(folder)):
        try:
            return parse_snapshot(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError):
            continue
    return []


def parse_snapshot(text: str) -> list[ServedVersion]:
    """The versions in one snapshot, by model and version; ValueError or KeyError where it is not whole."""
    snapshot = json.loads(parse_properties(text)["model_snapshot"])
    served = [
        _served_version(model, version, state)
        for model, versions in snapshot["models"].items()
        for version, state in versions.items()
    ]
    if len(served) != snapshot["modelCount"]:
        raise ValueError(f"snapshot counts {snapshot['modelCount']} models and holds {len(served)}")
    return sorted(served, key=lambda entry: entry.key)


def prune_snapshots(folder: Path) -> None:
    """Remove all but the newest snapshots."""
    for path in _snapshots(folder)[:-KEPT_SNAPSHOTS]:
        path.unlink(missing_ok=True)


def remember_served(paths: NodePaths) -> None:
    """Keep what the node served last, before its start writes an empty snapshot."""
    write_pending(paths.pending_restore, merge(last_served(paths.snapshots), read_pending(paths.pending_restore)))
    prune_snapshots(paths.snapshots)


def merge(served: list[ServedVersion], pending: list[ServedVersion]) -> list[ServedVersion]:
    """The versions that a node should serve after a start: those of its last snapshot, and those still pending then.

    A model whose default was still pending gets that default again.
    """
    registered = {entry.key for entry in served}
    missing = [entry for entry in pending if entry.key not in registered]
    moved = {entry.model for entry in missing if entry.is_default}
    kept = [replace(entry, is_default=entry.is_default and entry.model not in moved) for entry in served]
    return sorted([*kept, *missing], key=lambda entry: entry.key)


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
    kept = [entry for entry in pending if entry.key != (model, version)]
    if kept != pending:
        write_pending(path, kept)


def _served_version(model: str, version: str, state: dict[str, Any]) -> ServedVersion:
    return ServedVersion(
        model=model,
        version=version,
        archive=state["marName"],
        is_default=bool(state["defaultVersion"]),
        min_workers=int(state["minWorkers"]),
        max_workers=int(state["maxWorkers"]),
    )


def _snapshots(folder: Path) -> list[Path]:
    """The snapshots, the oldest first; their names begin with the JVM's local time, and its time zone may change."""
    paths = [path for path in folder.glob("*.cfg") if path.name[:17].isdigit()]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))
