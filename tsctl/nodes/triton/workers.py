"""The worker processes of a node's versions, as the kernel shows them: Triton itself knows only its instances."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import psutil

from tsctl.nodes.triton.repository import NUMBER

_INSTANCE = re.compile(r"w(\d+)_0")


def live_workers(supervisor: int, repository: Path) -> Mapping[str, Mapping[int, int]]:
    """Pids of the workers that live below a node's process, by the name of Triton's model and their number."""
    found: dict[str, dict[int, int]] = {}
    try:
        below = psutil.Process(supervisor).children(recursive=True)
    except psutil.Error:
        return {}
    for process in below:
        try:
            name, number = _worker_of(process.cmdline(), repository)
            if name and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(name, {})[number] = process.pid
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def _worker_of(command: list[str], repository: Path) -> tuple[str, int]:
    """The model whose file the command of a worker names, and the worker's number; empty where it is no worker's.

    Triton's command for a worker has the model's file first, and the name of the instance last but one.
    """
    if len(command) < 3:
        return "", 0
    file, instance = Path(command[1]), _INSTANCE.fullmatch(command[-2])
    is_ours = file.name == "model.py" and file.parent.name == NUMBER and file.parents[2] == repository
    return (file.parents[1].name, int(instance[1])) if is_ours and instance else ("", 0)
