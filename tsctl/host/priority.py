"""Lowers the priority of a node's processes, so that a node of shadows uses only spare processor time."""

from __future__ import annotations

import time
from pathlib import Path

from tsctl.errors import NodeError

TRIES, PAUSE_S = 20, 0.1


def at_nice(command: list[str], nice: int) -> list[str]:
    """The command with this niceness for all its processes and threads; 0 leaves it as it is."""
    return ["nice", "-n", str(nice), *command] if nice else command


def lower_session(pid: int, nice: int) -> None:
    """Set the niceness of the session that the process leads.

    A kernel with autogroup first divides the processor among sessions, by a niceness of each session. The niceness of a
    process counts only within its session.

    Raises:
        NodeError: the kernel refuses it.
    """
    group = Path(f"/proc/{pid}/autogroup")
    if not nice or not group.exists():  # a kernel without it has no such file
        return
    for _ in range(TRIES):
        try:
            group.write_text(f"{nice}\n")
        except BlockingIOError:  # unprivileged users may do this ten times a second, on the whole machine
            time.sleep(PAUSE_S)
        except OSError as error:
            raise NodeError(f"{group} cannot be set to {nice}: {error.strerror}") from None
        else:
            return
    raise NodeError(f"{group} cannot be set to {nice}: the kernel was asked too often", "Start the node again.")
