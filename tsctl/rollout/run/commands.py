"""Commands of people to a rollout that another process runs: one file each, which the runner reads and removes.

Invariant: a command never replaces another one, or a pause would hide an abort that was not read yet.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from dataclasses import dataclass

from tsctl.config.deployment import read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.errors import SpecError
from tsctl.host.files import write_document
from tsctl.rollout.decide.events import Command
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.journal import folder

#: How files begin whose command was not read yet, and those whose command is not in the journal yet.
_SENT, _TAKEN = "asked-", "taken-"


def send(project: Project, model: str, command: Command) -> None:
    """Leave a command for the rollout's process, which obeys at its next tick."""
    name = f"{_SENT}{time.time_ns():020}-{os.getpid()}.json"
    write_document(folder(project, model) / name, {"what": command, "by": person()})


def person() -> str:
    """The person who runs this process, and the machine: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass
class LiveOperator:
    """Commands from files, and the policy from deployment.yaml."""

    project: Project
    model: str
    policy_error: str = ""
    _policy: tuple[float, RolloutPolicy] | None = None  # with the file's time

    def commands(self) -> list[tuple[Command, str]]:
        journals = folder(self.project, self.model)
        for path in sorted(journals.glob(f"{_SENT}*")):  # later ones are not acknowledged with these
            path.replace(journals / path.name.replace(_SENT, _TAKEN, 1))
        read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(journals.glob(f"{_TAKEN}*"))]
        return [(Command(content["what"]), content["by"]) for content in read if content.get("what") in list(Command)]

    def acknowledge(self) -> None:
        for path in folder(self.project, self.model).glob(f"{_TAKEN}*"):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove all commands: those that were not read were meant for a rollout that has ended."""
        self.commands()
        self.acknowledge()

    def policy(self, state: State) -> RolloutPolicy:
        path = self.project.deployment
        try:
            modified_at = path.stat().st_mtime
            if self._policy is None or modified_at != self._policy[0]:
                self._policy = (modified_at, read_deployment(path).policy(state.model))
            self.policy_error = ""
        except (SpecError, OSError) as error:
            self.policy_error = f"deployment.yaml cannot be read: {error}"
        return self._policy[1] if self._policy is not None else state.policy
