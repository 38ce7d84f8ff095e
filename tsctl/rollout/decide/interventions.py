"""Events of a rollout that come from outside of it: commands, edits of deployment.yaml, new nodes, repairs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tsctl.rollout.decide.events import Cursor, Event
from tsctl.rollout.decide.stored_values import StoredPolicy


class Command(StrEnum):
    """A person's command to a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


_Command = Annotated[Command, Field(alias="what")]


@dataclass(frozen=True)
class CommandReceived(Event):
    """A person, or the policy, gave a command."""

    kind = "asked"
    command: _Command
    by: str = ""


@dataclass(frozen=True)
class PolicyChanged(Event):
    """deployment.yaml has another policy; evidence begins anew under it."""

    kind = "policy"
    policy: StoredPolicy
    policy_digest: str = ""


@dataclass(frozen=True)
class StickyChanged(Event):
    """The route assigns users where it assigned requests, or the other way; evidence begins anew at the cursor."""

    kind = "sticky"
    sticky: str
    cursor: Cursor = field(default_factory=dict)


@dataclass(frozen=True)
class Reopened(Event):
    """A promotion that has ended is rolled back on a person's command."""

    kind = "reopened"
    by: str = ""


@dataclass(frozen=True)
class NodesJoined(Event):
    """Nodes serve stable that did not when the rollout began; EXTEND registers the canary there."""

    kind = "joined"
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Repaired(Event):
    """The journal was written again: by its own process, which loses nothing, or by `tsctl rollout repair`.

    Args:
        lost: lines that could not be read. A rollout that has not ended can only be rolled back after that.
    """

    kind = "repaired"
    lost: int = 0
    by: str = ""
