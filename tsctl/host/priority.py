"""The priority of a node's processes: what a node of shadows needs, so that it takes what the others leave."""

from __future__ import annotations

import time
from pathlib import Path

from tsctl.errors import NodeError

TRIES, PAUSE_S = 20, 0.1


def at_nice(command: list[str], nice: int) -> list[str]:
    """The command with every process and thread of it that much nicer; 0 leaves it as it is."""
    return ["nice", "-n", str(nice), *command] if nice else command


def lower_session(pid: int, nice: int) -> None:
    """The same for the session that the process leads.

    Where the kernel groups processes by session (autogroup), it divides the processor among the sessions first, by a
    niceness that each session has for itself; a process's own counts only beside others of its session.

    Raises:
        NodeError: the kernel refuses it.
    """
    group = Path(f"/proc/{pid}/autogroup")
    if not nice or not group.exists():  # a kernel without it has no such file
        return
    for _ in range(TRIES):
        try:
            group.write_text(f"{nice}\n")
        except BlockingIOError:  # somebody without privileges may do this ten times a second, on the whole machine
            time.sleep(PAUSE_S)
        except OSError as error:
            raise NodeError(f"{group} cannot be set to {nice}: {error.strerror}") from None
        else:
            return
    raise NodeError(f"{group} cannot be set to {nice}: the kernel was asked too often", "Start the node again.")
