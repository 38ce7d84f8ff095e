"""From loads to the one number that settings are judged by: requests/s that are answered within the limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Shares of the capacity that are offered, in this order, until a load's p99 is within the limit.
SHARES = (0.9, 0.7, 0.5, 0.25)
#: Connections of the closed loop: twice as many requests as are under way at the limit, so that all work is offered.
FEWEST, MOST = 4, 256
#: Answers that a load should have, so that its p99 is one of several.
ANSWERS = 200


@dataclass(frozen=True)
class Load:
    """One open loop: requests/s that it offered, and those of them that were answered; milliseconds may be infinite."""

    offered_s: float
    answered_s: float
    p99_ms: float


@dataclass(frozen=True)
class Score:
    """What was measured of one point in one rung.

    Args:
        seconds: of each load.
        capacity_s: requests/s of the closed loop.
        goodput_s: requests/s that can be offered so that 99 of 100 are answered within the limit.
        p99_ms: of the largest load within the limit; of the lightest load where none was.
        others: share of the machine's processor time that programs took which have no part in it.
    """

    seconds: float
    capacity_s: float
    goodput_s: float
    p99_ms: float
    memory_bytes: int = 0
    others: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON values; an infinite number of milliseconds is null."""
        return {**asdict(self), "p99_ms": self.p99_ms if math.isfinite(self.p99_ms) else None}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Score:
        """The score that `as_json` wrote."""
        p99 = content["p99_ms"]
        return cls(**{**content, "p99_ms": math.inf if p99 is None else p99})


def next_share(loads: Sequence[Load], slo_ms: float) -> float | None:
    """The share of the capacity to offer next; None where a load was within the limit, or the lightest was not."""
    if len(loads) == len(SHARES) or any(load.p99_ms <= slo_ms for load in loads):
        return None
    return SHARES[len(loads)]


def score(seconds: float, capacity_s: float, loads: Sequence[Load], slo_ms: float) -> Score:
    """The score of a point.

    Between the largest load within the limit and the next larger one, the p99 grows about exponentially with the load,
    so its logarithm is interpolated.

    Args:
        loads: from the largest to the lightest, as `next_share` asked for them.
    """
    good = next((load for load in loads if load.p99_ms <= slo_ms), None)
    if good is None:
        return Score(seconds, capacity_s, 0.0, loads[-1].p99_ms if loads else math.inf)
    above = loads[loads.index(good) - 1] if loads.index(good) else None
    goodput = good.answered_s
    if above is not None and math.isfinite(above.p99_ms) and good.p99_ms > 0:
        way = math.log(slo_ms / good.p99_ms) / math.log(above.p99_ms / good.p99_ms)
        goodput += way * max(0.0, above.offered_s - good.offered_s)
    return Score(seconds, capacity_s, goodput, good.p99_ms)


def connections_for(rate: float, slo_ms: float) -> int:
    """Connections of the closed loop, for all points alike.

    Args:
        rate: requests/s of the present settings.
    """
    return min(MOST, max(FEWEST, math.ceil(2 * rate * slo_ms / 1000)))


def seconds_for(rate: float, least_s: float, most_s: float) -> float:
    """Seconds of the shortest loads: enough for ANSWERS answers, within bounds."""
    return min(most_s, max(least_s, ANSWERS / rate)) if rate > 0 else most_s
