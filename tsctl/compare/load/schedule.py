"""When an open loop sends its requests. Pure.

Clients that know nothing of each other arrive at random moments, so the times between requests are exponential; equal
seeds give the same moments for every engine at the same rate. A schedule is made before the first request is sent and
waits for no answer, so a slow answer delays no later request.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SEED = 14


def send_times(rate: float, seconds: float, seed: int = SEED, begin: float = 0.0) -> list[float]:
    """Moments in seconds, in order, from `begin` on and before `begin + seconds`.

    Args:
        rate: requests/s, more than zero.
    """
    chance = random.Random(seed)  # noqa: S311 - the same for every engine, and no secret
    moments: list[float] = []
    at = begin + chance.expovariate(rate)
    while at < begin + seconds:
        moments.append(at)
        at += chance.expovariate(rate)
    return moments


def phases(*parts: tuple[float, float], seed: int = SEED) -> list[float]:
    """Moments of several rates one after the other.

    Args:
        parts: rate and seconds of each.
    """
    moments: list[float] = []
    begin = 0.0
    for number, (rate, seconds) in enumerate(parts):
        moments += send_times(rate, seconds, seed + number, begin)
        begin += seconds
    return moments


def at_least_one(moments: Sequence[float]) -> list[float]:
    """The moments; one at the begin where a low rate left none."""
    return list(moments) or [0.0]
