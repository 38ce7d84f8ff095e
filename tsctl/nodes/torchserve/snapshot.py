"""Reads back what a node served from the snapshots that TorchServe writes at every change.

TorchServe restores a snapshot only when it starts without a config file, and stops at the first model that fails;
here the newest whole snapshot is read, and the models are registered again one by one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tsctl.errors import NodeError
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


def last_served(folder: Path) -> list[ServedVersion]:
    """What the newest readable snapshot in `folder` says; empty where there is none.

    A snapshot that a killed node left half-written is passed over for the one before it.
    """
    for path in sorted(_snapshots(folder), reverse=True):
        try:
            return parse_snapshot(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError):
            continue
    return []


def parse_snapshot(text: str) -> list[ServedVersion]:
    """The versions in one snapshot, by model and version; ValueError or KeyError where it is not whole."""
    snapshot = json.loads(parse_properties(text)["model_snapshot"])
    served = [
        _served(model, version, state)
        for model, versions in snapshot["models"].items()
        for version, state in versions.items()
    ]
    if len(served) != snapshot["modelCount"]:
        raise ValueError(f"snapshot counts {snapshot['modelCount']} models and holds {len(served)}")
    return sorted(served, key=lambda entry: (entry.model, entry.version))


def prune_snapshots(folder: Path) -> None:
    """Remove all but the newest snapshots."""
    for path in sorted(_snapshots(folder))[:-KEPT_SNAPSHOTS]:
        path.unlink(missing_ok=True)


def merge(served: list[ServedVersion], pending: list[ServedVersion]) -> list[ServedVersion]:
    """What a node should serve after a start: what it served last, and what had not come back by then.

    A model whose default had not come back gets that default again.
    """
    there = {(entry.model, entry.version) for entry in served}
    missing = [entry for entry in pending if (entry.model, entry.version) not in there]
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
    """Keep the list, or remove the file where nothing is left to come back; a reader never sees half of it."""
    if not pending:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    written.write_text(json.dumps([asdict(entry) for entry in pending], indent=2) + "\n", encoding="utf-8")
    written.replace(path)


def forget(path: Path, model: str, version: str) -> None:
    """The version does not come back at the next start."""
    pending = read_pending(path)
    kept = [entry for entry in pending if (entry.model, entry.version) != (model, version)]
    if kept != pending:
        write_pending(path, kept)


def _served(model: str, version: str, state: dict[str, Any]) -> ServedVersion:
    return ServedVersion(
        model=model,
        version=version,
        archive=state["marName"],
        is_default=bool(state["defaultVersion"]),
        min_workers=int(state["minWorkers"]),
        max_workers=int(state["maxWorkers"]),
    )


def _snapshots(folder: Path) -> list[Path]:
    # the name begins with the time, yyyyMMddHHmmssSSS, so names sort by age
    return [path for path in folder.glob("*.cfg") if path.name[:17].isdigit()] if folder.is_dir() else []
