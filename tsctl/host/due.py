"""Which of the tasks of a loop are due, each at its own pace."""

from __future__ import annotations

import time


class Due:
    """When tasks are due next, by their names; one that nobody has named yet is due now."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def is_due(self, task: str, every_s: float) -> bool:
        """Whether the task is due; if it is, the next time is `every_s` from now."""
        now = time.monotonic()
        if now < self._at.get(task, 0.0):
            return False
        self._at[task] = now + every_s
        return True

    def put_off(self, task: str, for_s: float) -> None:
        """The task is due in so many seconds, and not before."""
        self._at[task] = time.monotonic() + for_s

    def hurry(self, task: str) -> None:
        """The task is due now."""
        self._at.pop(task, None)
