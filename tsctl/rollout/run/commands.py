"""What people ask of a rollout that another process runs: a file for each question, which the runner reads and removes.

Invariant: a question never takes the place of another one, or a pause would hide an abort that nobody has read yet.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from pathlib import Path

from tsctl.config.project import Project
from tsctl.host.files import write_document
from tsctl.rollout.decide.events import Command
from tsctl.rollout.run.journal import folder

#: How the files begin that nobody has read yet, and those that are not in the journal yet.
_ASKED, _TAKEN = "asked-", "taken-"


def ask(project: Project, model: str, command: Command) -> None:
    """The rollout's process does it at its next tick."""
    name = f"{_ASKED}{time.time_ns():020}-{os.getpid()}.json"
    write_document(folder(project, model) / name, {"what": command, "by": who()})


def asked(project: Project, model: str) -> list[tuple[Command, str]]:
    """What was asked for and by whom, in its order; nothing where nobody did. The same again until `answered`."""
    here = folder(project, model)
    for path in sorted(here.glob(f"{_ASKED}*")):
        path.replace(here / path.name.replace(_ASKED, _TAKEN, 1))  # what comes from now on is not answered with these
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(here.glob(f"{_TAKEN}*"))]
    return [(Command(one["what"]), one["by"]) for one in told if one.get("what") in list(Command)]


def answered(project: Project, model: str) -> None:
    """What `asked` told is in the journal, and need not be asked for again."""
    for path in folder(project, model).glob(f"{_TAKEN}*"):
        path.unlink(missing_ok=True)


def forget(project: Project, model: str) -> None:
    """Nothing is asked for: what nobody has read was meant for a rollout that has ended."""
    asked(project, model)
    answered(project, model)


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
