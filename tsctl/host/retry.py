"""Tries again what failed for a reason that may pass, with growing pauses, and not for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tsctl.host.remote import Again, Unreachable

#: Attempts without progress, the first pause, the longest, and seconds without progress after which nothing is tried.
ATTEMPTS, PAUSE_S, LONGEST_PAUSE_S, GIVE_UP_S = 5, 0.5, 30.0, 60.0
#: Seconds without any connection after which nothing is tried; with the last attempt that is at most about 10 s.
REACH_S = 2.5
Result = TypeVar("Result")


class Patience:
    """How often, and for how long, something may fail before it is given up.

    Args:
        sleep: waits for some seconds.
        clock: gives seconds that never go back.
        reach_s: seconds after which no further connection is tried where none was made.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] | None = None,
        reach_s: float = GIVE_UP_S,
    ) -> None:
        self._reach_s = reach_s
        self._sleep, self._clock = sleep or time.sleep, clock or time.monotonic
        self.progressed()

    def progressed(self) -> None:
        """Begin to count anew."""
        self._failures, self._since = 0, self._clock()

    def pause(self, error: Again) -> None:
        """Wait before the next attempt, for as long as the server asks; raises the error where there is none."""
        self._failures += 1
        most_s = self._reach_s if isinstance(error, Unreachable) else GIVE_UP_S
        if self._failures >= ATTEMPTS or self._clock() - self._since > most_s:
            raise error
        grown = PAUSE_S * 2 ** (self._failures - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads callers
        self._sleep(min(LONGEST_PAUSE_S, max(grown, error.pause_s or 0.0)))


def persistently(attempt: Callable[[], Result]) -> Result:
    """The attempt's result; raises its last error where it fails for too long, or for REACH_S without a connection."""
    patience = Patience(reach_s=REACH_S)
    while True:
        try:
            return attempt()
        except Again as error:
            patience.pause(error)
