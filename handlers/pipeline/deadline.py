"""Which requests are too late to be computed. Pure: times come in as arguments.

A request says how long its client waits, counted from when the gateway sent it. How much of that has passed in the
server's queue nobody tells the worker, and the gateway's clock, which stamps the request, need not agree with the
worker's. So only differences are compared: a request has waited by as much as its age, by its stamp, exceeds the least
age of a request that did not wait. At first that is 0, as where the clocks agree; it is set anew by every request that
is younger, and by each that comes to an idle worker.

Invariant: a wrong estimate ends by itself. Where clocks jump, requests are refused for STUCK_S at most.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.contract import SENT_HEADER, TIMEOUT_HEADER
from handlers.errors import DeadlinePassed, UnreadableHeader

#: Digits of a time in a header.
LONGEST_NUMBER = 15
#: A worker that had nothing to do for so long had an empty queue: a full one hands over the next batch much sooner.
IDLE_S = 0.25
#: Refusing takes no time, so a queue in which all is late is empty sooner than this. If not, the estimate is wrong.
STUCK_S = 2.0
#: Two clocks drift apart by less than this, in seconds per second.
DRIFT = 1e-4
#: Weight of the last batch in the typical time of a batch, and how many of these a request must have left to be begun.
RECENT, NEEDED = 0.25, 1.25


class Lateness:
    """What one worker knows of the time that its requests have left.

    Args:
        now: seconds of a monotonic clock.
        wall: seconds since 1970.
    """

    def __init__(self, now: float, wall: float) -> None:
        self._wall = wall - now
        self._now = self._ended = now
        self._least = 0.0  # age of a request that did not wait, in seconds
        self._is_idle = False
        self._refusing_since: float | None = None
        self._typical = self._needed = 0.0  # seconds that a batch takes; that a request must have left
        self._text: str | None = None
        self._left = 0.0  # seconds of the last timeout that was read; most requests have the same

    def begin(self, now: float) -> None:
        """A batch came."""
        self._least += (now - self._now) * DRIFT
        self._now = now
        self._is_idle = now - self._ended > IDLE_S

    def end(self, now: float, is_computed: bool) -> None:
        """The batch is answered; `is_computed`: with an answer of the model among others."""
        if is_computed:
            self._typical += (now - self._now - self._typical) * (RECENT if self._typical else 1.0)
            self._needed = NEEDED * self._typical
        self._ended = now

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises DeadlinePassed where no answer can come in time, UnreadableHeader where the time is no number."""
        timeout = headers.get(TIMEOUT_HEADER)
        if timeout is None:
            return
        left = self._left if timeout == self._text else self._read(timeout)
        sent = headers.get(SENT_HEADER)
        stamp = None if sent is None else _whole(sent)
        if stamp is not None:
            age = self._now + self._wall - stamp / 1000
            if age < self._least or self._is_idle:
                self._least = age
                self._is_idle = False  # of the first request alone: the others of its batch came later
            if self._needed + age - self._least < left or (left and self._is_stuck(age)):
                self._refusing_since = None
                return
        elif left:  # not from the gateway, or a health check
            return
        raise DeadlinePassed("The client's time was over, or would have been before the answer.")

    def waited_s(self, headers: Mapping[str, str], now: float) -> float:
        """Seconds, by the gateway's stamp, that a request had waited in the queue; 0 where there is no stamp.

        Args:
            now: when its batch began.
        """
        stamp = _whole(headers.get(SENT_HEADER, ""))
        return 0.0 if stamp is None else max(0.0, now + self._wall - stamp / 1000 - self._least)

    def _read(self, timeout: str) -> float:
        self._left = read_timeout(timeout)
        self._text = timeout
        return self._left

    def _is_stuck(self, age: float) -> bool:
        """Whether all has been refused for so long that the estimates are wrong; they are then forgotten."""
        if self._refusing_since is None:
            self._refusing_since = self._now
        if self._now - self._refusing_since <= STUCK_S:
            return False
        self._least, self._typical, self._needed = age, 0.0, 0.0
        return True


def read_timeout(timeout: str) -> float:
    """Seconds that a client waits, by TIMEOUT_HEADER.

    Raises:
        UnreadableHeader: it is no number.
    """
    milliseconds = _whole(timeout)
    if milliseconds is None:
        raise UnreadableHeader(f"{TIMEOUT_HEADER} must be a time in milliseconds, as a whole number.")
    return milliseconds / 1000


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= LONGEST_NUMBER and text.isascii() and text.isdigit() else None
