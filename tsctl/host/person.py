"""Names the person who runs this process, for those who read later who did what."""

from __future__ import annotations

import getpass
import os
import socket


def person() -> str:
    """The person and the machine: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
