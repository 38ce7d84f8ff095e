"""The errors that tsctl raises on purpose, and the exit code each one owns.

    TsctlError            1  base, never raised itself
      SpecError           2  a YAML file, an option or the configuration is invalid
      ArchiveError        3  an archive cannot be built, read or trusted
      NodeError           4  a node cannot be started or reached, or refuses a change
      GatewayError        5  the gateway refuses a configuration or does not serve it
      AnalysisError       6  evidence cannot be read or judged
      ConflictError       7  another process holds the lock, or the state changed meanwhile

An OSError that nobody expected, such as a disk without space, ends a command with 1 as well.
Outcomes are not errors: a rollout exits 10 after a rollback, 11 while it is undecided, and 13 if it failed before its
first request; a plan with changes exits 12; two archives that answer differently exit 14.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Characters of a message; what others wrote may be in it.
LONGEST = 20_000


def printable(text: str, kept: str = "") -> str:
    """The text with every character escaped that a terminal may obey, except those in `kept`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


class TsctlError(Exception):
    """A failure that a person can fix.

    Args:
        message: the failure, its values and the expectation.
        hint: the next step, as a full sentence; empty where the message already gives it.
        document: what the command's JSON has beside the error, such as what was done on each node.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", document: Mapping[str, Any] | None = None) -> None:
        self.document = document
        self.message = printable(message if len(message) <= LONGEST else f"{message[:LONGEST]}...", kept="\n")
        self.hint = printable(hint, kept="\n")
        super().__init__(self.message)

    @property
    def summary(self) -> str:
        """The message on one line."""
        return " ".join(self.message.split())


class SpecError(TsctlError):
    """A YAML file, an option or the configuration is invalid."""

    exit_code = 2


class ArchiveError(TsctlError):
    """An archive cannot be built, read or trusted."""

    exit_code = 3


class NodeError(TsctlError):
    """A node cannot be started or reached, or refuses a change."""

    exit_code = 4


class GatewayError(TsctlError):
    """The gateway refuses a configuration or does not serve it."""

    exit_code = 5


class AnalysisError(TsctlError):
    """Evidence cannot be read or judged."""

    exit_code = 6


class ConflictError(TsctlError):
    """Another process holds the lock, or the state changed meanwhile."""

    exit_code = 7
