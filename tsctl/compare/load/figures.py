"""From the columns that a load client noted to its figures. Pure.

Two rules. Latency counts from the moment at which a request was meant to be sent, so a server that stalls is charged
for the requests that had to wait meanwhile (coordinated omission). A request that failed is never answered in time, so
it counts as slower than every other in the percentiles.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from tsctl.compare.load.order import LOST, Noted
from tsctl.compare.statistics import percentile

OK = 200
#: Statuses with which a server that has more to do than it can says so.
REFUSALS = (429, 503)
#: Share of one core above which the client may be what limited the load.
CLIENT_LIMIT = 0.9


@dataclass(frozen=True)
class LoadFigures:
    """One load. Milliseconds are infinite where so many requests failed that the percentile is one of them."""

    connections: int
    offered_s: float | None  # requests/s that were meant to be sent; None: a closed loop
    answered_s: float  # requests/s answered with 200
    p50_ms: float
    p90_ms: float
    p99_ms: float
    most_ms: float
    requests: int
    failed: int  # not answered with 200
    statuses: dict[int, int]  # LOST for those without an answer
    client_share: float  # of one core, that the client took
    late_p99_ms: float  # how late the client sent; in a closed loop 0

    @property
    def is_client_limited(self) -> bool:
        """Whether the client may have been slower than the server."""
        return self.client_share > CLIENT_LIMIT


@dataclass(frozen=True)
class OverloadFigures:
    """What a server does with more requests than it can answer."""

    capacity_s: float  # requests/s at saturation, measured right before
    offered_s: float
    goodput_s: float  # requests/s answered with 200 while the load lasted
    refused: int
    bad_refusals: int  # a status that is no refusal, no retry-after, or no answer at all
    refusal_p99_ms: float
    refusal_most_ms: float
    recovery_s: float  # from the end of the overload until all is answered in time again

    @property
    def goodput_share(self) -> float:
        """Of the capacity."""
        return self.goodput_s / self.capacity_s


def load_figures(noted: Noted, connections: int, offered_s: float | None = None, lead_s: float = 0.0) -> LoadFigures:
    """The figures of one load.

    Args:
        offered_s: of an open loop.
        lead_s: seconds at the begin that are not counted.
    """
    begin, end = noted.begin + lead_s, noted.begin + noted.wall_s
    # An open loop is judged by all that was to be sent, a closed loop by what came: it ends with requests on their way.
    counted = noted.came if offered_s is None else noted.intended
    chosen = [at for at, moment in enumerate(counted) if begin <= moment <= end]
    times = sorted((noted.came[at] - noted.intended[at]) * 1000 for at in chosen if noted.status[at] == OK)
    failed = len(chosen) - len(times)
    late = sorted((noted.sent[at] - noted.intended[at]) * 1000 for at in chosen)
    answered = sum(status == OK and begin <= came <= end for status, came in zip(noted.status, noted.came, strict=True))
    return LoadFigures(
        connections=connections,
        offered_s=offered_s,
        answered_s=answered / (end - begin) if end > begin else 0.0,
        p50_ms=percentile(times, 0.5, failed),
        p90_ms=percentile(times, 0.9, failed),
        p99_ms=percentile(times, 0.99, failed),
        most_ms=percentile(times, 1.0, failed),
        requests=len(chosen),
        failed=failed,
        statuses=dict(Counter(noted.status[at] for at in chosen)),
        client_share=noted.cpu_s / noted.wall_s if noted.wall_s else 0.0,
        late_p99_ms=percentile(late, 0.99) if late else 0.0,
    )


def overload_figures(
    noted: Noted, capacity_s: float, offered_s: float, overload_s: float, slow_ms: float
) -> OverloadFigures:
    """The figures of an overload that was followed by a load that the server can answer.

    Args:
        capacity_s: requests/s at saturation, more than zero.
        overload_s: seconds from the begin until the overload ended.
        slow_ms: an answer after it that takes longer is not yet in time.
    """
    end = noted.begin + overload_s
    rows = list(zip(noted.intended, noted.sent, noted.came, noted.status, noted.retry_after, strict=True))
    during = [row for row in rows if row[0] <= end]
    good = sum(status == OK and came <= end for _, _, came, status, _ in during)
    refused = [row for row in during if row[3] != OK]
    bad = sum(status not in REFUSALS or not retry_after for _, _, _, status, retry_after in refused)
    took = sorted((came - sent) * 1000 for _, sent, came, status, _ in refused if status != LOST)
    lost = len(refused) - len(took)
    ill = [
        intended - end
        for intended, _, came, status, _ in rows
        if intended > end and (status != OK or (came - intended) * 1000 > slow_ms)
    ]
    return OverloadFigures(
        capacity_s=capacity_s,
        offered_s=offered_s,
        goodput_s=good / overload_s,
        refused=len(refused),
        bad_refusals=bad,
        refusal_p99_ms=percentile(took, 0.99, lost) if refused else 0.0,
        refusal_most_ms=percentile(took, 1.0, lost) if refused else 0.0,
        recovery_s=max(ill, default=0.0),
    )


def finite(value: float) -> float | None:
    """The value, and None for infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
