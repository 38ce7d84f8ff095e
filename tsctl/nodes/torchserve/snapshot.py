"""Reads from TorchServe's snapshots, which it writes at every change, what a node served.

TorchServe restores a snapshot only when it starts without a config file, and stops at the first model that fails. So
tsctl reads the newest whole snapshot, and registers the models again one by one (restore.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """The versions in the newest readable snapshot of the folder; empty where there is none.

    A snapshot that a killed node left half-written is skipped for the one before it.
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
        _served_version(model, version, state)
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
    # the name begins with the time, yyyyMMddHHmmssSSS, so names sort by age
    return [path for path in folder.glob("*.cfg") if path.name[:17].isdigit()] if folder.is_dir() else []
