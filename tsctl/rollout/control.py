"""What people ask of a rollout that another process runs: a file, renamed into place, which the runner reads and
removes."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

from tsctl.gateway.files import write_document
from tsctl.project import Project
from tsctl.rollout.journal import folder

#: What may be asked for.
PAUSE, RESUME, ABORT, PROMOTE, ROLLBACK = WORDS = ("pause", "resume", "abort", "promote", "rollback")


def ask(project: Project, model: str, what: str) -> None:
    """The rollout's process does it at its next tick."""
    write_document(_path(project, model), {"what": what, "by": who()})


def asked(project: Project, model: str) -> list[tuple[str, str]]:
    """What was asked for and by whom; nothing where nobody did. The same again until `answered`."""
    path = _path(project, model)
    if not _taken(path).exists() and path.exists():
        path.replace(_taken(path))  # what is asked for from now on is another question
    try:
        told = json.loads(_taken(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [(told["what"], told["by"])] if told.get("what") in WORDS else []


def answered(project: Project, model: str) -> None:
    """It is in the journal, and need not be asked for again."""
    _taken(_path(project, model)).unlink(missing_ok=True)


def who() -> str:
    """Who runs this process, and where: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def lock(project: Project, model: str) -> Path:
    """Held by the process that runs the model's rollout."""
    return folder(project, model) / "lock"


def _path(project: Project, model: str) -> Path:
    return folder(project, model) / "asked.json"


def _taken(path: Path) -> Path:
    return path.with_suffix(".taken.json")
