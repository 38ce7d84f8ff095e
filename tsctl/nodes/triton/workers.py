"""The worker processes of a node's versions, as the kernel shows them: Triton itself knows only its instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from tsctl.nodes.triton.repository import NUMBER


def live_workers(supervisor: int, repository: Path) -> Mapping[str, tuple[int, ...]]:
    """Pids of the workers that live, by the name of Triton's model, below a node's process."""
    found: dict[str, list[int]] = {}
    try:
        below = psutil.Process(supervisor).children(recursive=True)
    except psutil.Error:
        return {}
    for process in below:
        try:
            name = _name_of(process.cmdline(), repository)
            if name and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(name, []).append(process.pid)
        except psutil.Error:
            continue  # it ended meanwhile
    return {name: tuple(sorted(pids)) for name, pids in found.items()}


def _name_of(command: list[str], repository: Path) -> str:
    """The model whose file the command of a worker names; empty where it is no worker's."""
    if len(command) < 2:
        return ""
    file = Path(command[1])
    is_ours = file.name == "model.py" and file.parent.name == NUMBER and file.parents[2] == repository
    return file.parents[1].name if is_ours else ""
