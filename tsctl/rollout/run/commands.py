"""Commands of people to a rollout that another process runs: one empty file each, which the runner reads and removes.

To a process on another machine they are objects at the place that both share; the runner reads those as well.

Invariant: a command never replaces another one, or a pause would hide an abort that was not read yet. All that a
command says is its file's name, so that it can be given on a full disk, and there is nothing in it to be damaged.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.control.here import shared_place
from tsctl.control.place import PlaceUnreachable
from tsctl.host.locks import is_held
from tsctl.host.person import person
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.journal_files import folder, lock_of
from tsctl.rollout.run.shared import SharedCommands

#: How files begin whose command was not read yet, and those whose command is not in the journal yet.
_SENT, _TAKEN = "asked-", "taken-"
_NAME = re.compile(rf"{_TAKEN}\d+-\d+-({'|'.join(Command)})-(.*)")


def send(project: Project, model: str, command: Command) -> None:
    """Leave a command for the rollout's process, which obeys at its next tick.

    Raises:
        PlaceUnreachable: machines share a place that does not answer; nothing was sent, because nobody would obey.
        PlaceUnusable: as it says.
    """
    try:
        place = shared_place(project)
        if place is not None and not is_held(lock_of(project, model)):
            return SharedCommands(place, model).send(command, person())
    except PlaceUnreachable as error:
        raise PlaceUnreachable(
            f"{error.message}; {command} was not sent, and the weights stay as they are until the place is back",
            error.hint,
        ) from None
    by = quote(person(), safe="@")[:100]
    name = f"{_SENT}{time.time_ns():020}-{os.getpid()}-{command}-{by}"
    (folder(project, model) / name).touch(0o600, exist_ok=False)


def sticky_text(deployment: DeploymentSpec, model: str) -> str:
    """What tells users on the model's route: `header x-user` or `cookie id`; empty where requests are assigned."""
    target = deployment.models.get(model)
    sticky = target.route.sticky if target is not None else None
    if sticky is None:
        return ""
    return f"header {sticky.header}" if sticky.header else f"cookie {sticky.cookie}"


class OpenedSpec(Protocol):
    """A project with its deployment.yaml as it was read."""

    @property
    def project(self) -> Project: ...

    @property
    def deployment(self) -> DeploymentSpec: ...


class LiveSpec(Protocol):
    """The same, read again when the file changes; `error`: why it could not be read last, empty where it could."""

    @property
    def opened(self) -> OpenedSpec: ...

    @property
    def error(self) -> str: ...

    def now(self) -> OpenedSpec: ...


@dataclass
class LiveOperator:
    """Commands from files and from the shared place, and the policy from deployment.yaml.

    Args:
        shared: commands at the place that machines share; None where there is none.
    """

    gateway: LiveSpec
    model: str
    shared: SharedCommands | None = None

    @property
    def policy_error(self) -> str:
        """Why deployment.yaml says nothing about the model; empty where it does."""
        is_named = self.model in self.gateway.now().deployment.models
        return self.gateway.error or ("" if is_named else f"deployment.yaml no longer names {self.model}")

    def commands(self) -> list[tuple[Command, str]]:
        journals = folder(self.gateway.opened.project, self.model)
        for path in sorted(journals.glob(f"{_SENT}*")):  # later ones are not acknowledged with these
            path.replace(journals / path.name.replace(_SENT, _TAKEN, 1))
        named = [match for path in self._taken() if (match := _NAME.fullmatch(path.name))]
        here = [(Command(match[1]), unquote(match[2])) for match in named]
        return here + (self.shared.take() if self.shared is not None else [])

    def acknowledge(self) -> None:
        if self.shared is not None:
            self.shared.acknowledge()
        for path in self._taken():
            path.unlink(missing_ok=True)

    def _taken(self) -> list[Path]:
        return sorted(folder(self.gateway.opened.project, self.model).glob(f"{_TAKEN}*"))

    def forget(self) -> None:
        """Remove all commands: those that were not read were meant for a rollout that has ended."""
        self.commands()
        self.acknowledge()

    def sticky(self, state: State) -> str:
        deployment = self.gateway.now().deployment
        return sticky_text(deployment, self.model) if self.model in deployment.models else state.sticky

    def policy(self, state: State) -> RolloutPolicy:
        deployment = self.gateway.now().deployment
        if self.model not in deployment.models:
            return state.policy
        return deployment.policy(self.model).judging(state.is_text)
