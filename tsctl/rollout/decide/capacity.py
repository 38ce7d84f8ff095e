"""Whether the canary's workers can carry a share of the requests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tsctl.config.weights import TOTAL


def requests_per_s(batches_s: Sequence[float], batch: int, workers: int) -> float:
    """What workers can answer in a second, all together.

    Args:
        batches_s: how long one worker took for each of some full batches, from the first byte sent to the last answer.
        batch: requests in each of them.
    """
    return workers * batch / median(batches_s)


def utilisation(rate: float, weight: int, capacity: float) -> float:
    """The share of their time for which the canary's workers would be busy.

    The utilisation law: requests a second times the seconds that one takes, over the workers.

    Args:
        rate: requests a second that the whole route gets.
        weight: of the canary, in hundredths of a percent.
        capacity: requests a second that the canary can answer; above 0.
    """
    return rate * weight / TOTAL / capacity
