"""How long a request will wait behind others, so that one that would be answered too late is refused at once. Pure."""

from __future__ import annotations

from collections import deque

#: Full batches whose mean time is the estimate of the next.
REMEMBERED = 4
#: A request must have this many times the estimated wait left: batches take more or less time than the last ones did.
MARGIN = 1.25
#: Of a batch that runs, the part that is left on average.
HALF = 0.5


class Pace:
    """The time of full batches, which are all that comes where more waits than can be computed.

    Args:
        batch_size: the most requests in a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._full_s: deque[float] = deque(maxlen=REMEMBERED)  # of each batch that was nearly full

    def ended(self, requests: int, seconds: float) -> None:
        """A batch of so many requests was answered."""
        if 2 * requests >= self._batch_size:
            self._full_s.append(seconds)

    def wait_s(self, ahead: int, workers: int) -> float:
        """Seconds until the answer to a request that comes now.

        Args:
            ahead: requests that wait; with less than a batch of them 0 is returned, because such a wait is short.
            workers: that are ready.
        """
        if ahead < self._batch_size or not self._full_s:
            return 0.0
        return sum(self._full_s) / len(self._full_s) * (HALF + ahead // self._batch_size / max(1, workers) + 1)

    def is_too_late(self, ahead: int, workers: int, left_s: float) -> bool:
        """Whether a request whose client waits for `left_s` more seconds is not worth to wait with so many ahead."""
        return self.wait_s(ahead, workers) * MARGIN > left_s
