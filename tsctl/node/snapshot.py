"""Reads back what a node served from the snapshots that TorchServe writes at every change.

TorchServe restores a snapshot only when it starts without a config file, and stops at the first model that fails;
here the newest whole snapshot is read, and the models are registered again one by one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tsctl.node.properties import parse_properties

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


def dump_served(served: list[ServedVersion]) -> str:
    """The list as JSON that `load_served` reads."""
    return json.dumps([asdict(entry) for entry in served], indent=2) + "\n"


def load_served(text: str) -> list[ServedVersion]:
    """What `dump_served` wrote."""
    return [ServedVersion(**entry) for entry in json.loads(text)]


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
