"""The processes that a server started."""

from __future__ import annotations

from tsctl.host.usage import process_tree


def children(parent: int) -> list[int]:
    """Pids of the processes that `parent` started, and of all that these did; none where it has ended."""
    return [pid for pid in process_tree([parent]) if pid != parent]
