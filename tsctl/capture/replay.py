"""Sends captured requests again at the times at which they came: when, and what the answers amount to.

An open loop: a request is sent at its time whether or not earlier ones are answered, and its latency counts from that
time (tsctl/compare/load/figures.py has the reasons). Each request gets a new id, so that nothing takes the answer for
that to the real request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from handlers.contract import REQUEST_ID_HEADER
from tsctl.compare.contender import Endpoint
from tsctl.compare.load.figures import OK
from tsctl.compare.load.order import LOST, Noted, Order
from tsctl.compare.load.run import run_load
from tsctl.compare.recorded import RecordedRequest
from tsctl.compare.statistics import percentile
from tsctl.errors import SpecError

#: Requests that may be under way at a time; further ones wait to be sent, and count as late.
CONNECTIONS = 256
#: A request that is sent later than this after its time counts as late.
LATE_MS = 10.0
#: Seconds for which answers are waited for after the last request was sent, or after Ctrl-C.
DRAIN_S = 30.0
#: How often faster than they came requests can be sent.
SPEEDS = (0.001, 10_000.0)
#: No replay takes longer.
LONGEST_S = 7 * 86_400.0
_SPEED = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)x?", re.ASCII)


@dataclass(frozen=True)
class Summary:
    """What became of the requests. Latencies are None where so many failed that the percentile is one of them."""

    requests: int  # that were to be sent
    sent: int
    answered: dict[str, int]  # by status; "none": no answer came
    p50_ms: float | None  # of all that were sent, from the time at which they were to be sent; a failed one is slowest
    p90_ms: float | None
    p99_ms: float | None
    most_ms: float | None
    late: int  # sent more than LATE_MS after their time
    late_p99_ms: float
    seconds: float  # of sending
    is_interrupted: bool

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def parse_speed(text: str) -> float:
    """A speed such as 2x, 0.5x or 10.

    Raises:
        SpecError: it is none, or not within SPEEDS.
    """
    match = _SPEED.fullmatch(text)
    low, high = SPEEDS
    if match is None or not low <= float(match[1]) <= high:
        raise SpecError(f"--speed {text}: expected {low:g}x to {high:g}x, such as 2x or 0.5x")
    return float(match[1])


def send_times(
    path: Path, requests: Sequence[RecordedRequest], speed: float
) -> tuple[list[RecordedRequest], list[float]]:
    """The requests in the order in which they came, and when each is sent, in seconds after the first.

    Raises:
        SpecError: a request has no time, or sending all would take too long.
    """
    if missing := next((request.name for request in requests if request.at_s is None), None):
        raise SpecError(
            f"{path}: {missing} has no at_s, the seconds at which it came",
            "Replay a file that 'tsctl capture' wrote, or give each line an at_s.",
        )
    ordered = sorted(requests, key=lambda request: request.at_s or 0.0)
    first = ordered[0].at_s or 0.0
    times = [((request.at_s or 0.0) - first) / speed for request in ordered]
    if times[-1] > LONGEST_S:
        raise SpecError(
            f"at this speed, sending {path} takes {times[-1] / 86_400:.1f} days; at most {LONGEST_S / 86_400:g} are",
            "Give a larger --speed.",
        )
    return ordered, times


def replay(
    endpoint: Endpoint,
    requests: Sequence[RecordedRequest],
    times: Sequence[float],
    run: str,
    trusted: str | None = None,
) -> Summary:
    """Send the requests, and wait for their answers; Ctrl-C ends the sending.

    Args:
        times: in seconds, ascending, one for each request.
        run: begins the ids of its requests.
        trusted: as in an Order.

    Raises:
        NodeError: nothing listens there.
        KeyboardInterrupt: before the first request was sent.
    """
    messages = [endpoint.message(_with_id(request, f"{run}-{n}")) for n, request in enumerate(requests, 1)]
    connections = min(CONNECTIONS, len(messages))
    order = Order(endpoint.host, endpoint.port, connections, times[-1], endpoint.is_enveloped, DRAIN_S, trusted)
    return summary(run_load(order, messages, times, may_stop=True), len(messages))


def summary(noted: Noted, requests: int) -> Summary:
    """The figures of what the load client noted of this many requests. Pure."""
    rows = list(zip(noted.intended, noted.sent, noted.came, noted.status, strict=True))
    times = sorted((came - intended) * 1000 for intended, _, came, status in rows if status == OK)
    late = sorted((sent - intended) * 1000 for intended, sent, _, _ in rows)
    failed = len(rows) - len(times)

    def quantile(share: float) -> float | None:
        value = percentile(times, share, failed)
        return round(value, 3) if value < float("inf") else None

    return Summary(
        requests=requests,
        sent=len(rows),
        answered={str(s) if s != LOST else "none": n for s, n in sorted(Counter(noted.status).items()) if n},
        p50_ms=quantile(0.5),
        p90_ms=quantile(0.9),
        p99_ms=quantile(0.99),
        most_ms=quantile(1.0),
        late=sum(ms > LATE_MS for ms in late),
        late_p99_ms=round(percentile(late, 0.99), 3) if late else 0.0,
        seconds=round(noted.wall_s, 3),
        is_interrupted=len(rows) < requests,
    )


def _with_id(request: RecordedRequest, request_id: str) -> RecordedRequest:
    others = {name: value for name, value in request.headers.items() if name.lower() != REQUEST_ID_HEADER}
    return replace(request, headers={**others, REQUEST_ID_HEADER: request_id})
