"""Requests that come too late are refused without inference, whatever the clocks of gateway and worker say.

A queue is simulated: its stamps come from one clock, its worker has another, and nobody tells the worker how long a
request waited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from handlers.contract import SENT_HEADER, TIMEOUT_HEADER
from handlers.errors import DeadlinePassed, UnreadableHeader
from handlers.pipeline.deadline import STUCK_S, Lateness

#: A worker's start, by its monotonic clock, and the seconds since 1970 of that moment by the gateway's clock.
START, EPOCH = 1000.0, 1_795_000_000.0
REFUSING_S = 0.0002


@dataclass
class Queue:
    """One worker behind a queue, with requests of `deadline_s` that each take `service_s`.

    Args:
        ahead_s: how far the worker's clock is ahead of the gateway's.
        jump: what the gateway's clock adds at a moment, for clocks that are set.
    """

    service_s: float
    deadline_s: float
    ahead_s: float = 0.0
    length: int = 100
    jump: Callable[[float], float] = lambda now: 0.0
    in_time: list[float] = field(default_factory=list)  # when an answer came that its client still waited for
    late: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    full: int = 0

    def run(self, arrivals: Iterator[float], restart_at: float = float("inf")) -> Queue:
        """Serve requests that come at these seconds after the start; the worker may be replaced at one of them."""
        lateness = Lateness(START, EPOCH + self.ahead_s)
        waiting: deque[float] = deque()
        upcoming = next(arrivals, None)
        now = 0.0
        while upcoming is not None or waiting:
            while upcoming is not None and (upcoming <= now or not waiting):
                now = max(now, upcoming) if not waiting else now
                if len(waiting) < self.length:
                    waiting.append(upcoming)
                else:
                    self.full += 1
                upcoming = next(arrivals, None)
            if now >= restart_at:
                lateness, restart_at = Lateness(START + now, EPOCH + now + self.ahead_s), float("inf")
            came = waiting.popleft()
            stamp = round((EPOCH + came + self.jump(came)) * 1000)
            lateness.begin(START + now)
            try:
                lateness.check({TIMEOUT_HEADER: f"{self.deadline_s * 1000:.0f}", SENT_HEADER: str(stamp)})
            except DeadlinePassed:
                now += REFUSING_S
                self.refused.append(now)
                lateness.end(START + now, is_computed=False)
                continue
            now += self.service_s
            lateness.end(START + now, is_computed=True)
            (self.in_time if now - came <= self.deadline_s else self.late).append(now)
        return self


def every(seconds: float, until: float) -> Iterator[float]:
    return (number * seconds for number in range(1, int(until / seconds)))


SKEWS = [0.0, 31.0, -31.0, 7200.0, -7200.0]


@pytest.mark.parametrize("ahead_s", SKEWS)
def test_where_nothing_waits_nothing_is_refused_whatever_the_clocks_say(ahead_s: float) -> None:
    queue = Queue(service_s=0.01, deadline_s=30, ahead_s=ahead_s).run(every(1.0, 600))
    assert (queue.refused, queue.late) == ([], [])


@pytest.mark.parametrize("ahead_s", SKEWS)
def test_six_clients_of_a_slow_model_all_get_their_answers(ahead_s: float) -> None:
    arrivals = (6.0 * (number // 6) * 6 + 1 for number in range(60))  # six at once, when the last six are answered
    queue = Queue(service_s=6, deadline_s=60, ahead_s=ahead_s).run(arrivals)
    assert (len(queue.in_time), queue.refused, queue.late) == (60, [], [])


@pytest.mark.parametrize("ahead_s", SKEWS)
@pytest.mark.parametrize(("service_s", "deadline_s"), [(6.0, 60.0), (0.5, 5.0), (0.05, 2.0)])
def test_at_three_times_the_load_the_worker_works_for_clients_that_still_wait(
    service_s: float, deadline_s: float, ahead_s: float
) -> None:
    duration = 50 * deadline_s
    queue = Queue(service_s, deadline_s, ahead_s).run(every(service_s / 3, duration))
    assert len(queue.in_time) > 0.9 * duration / service_s
    assert len(queue.late) < 0.05 * duration / service_s


def test_a_worker_that_starts_anew_before_a_full_queue_still_knows_what_is_late() -> None:
    queue = Queue(service_s=0.5, deadline_s=5).run(every(0.5 / 3, 300), restart_at=100)
    assert len(queue.in_time) > 0.9 * 300 / 0.5


@pytest.mark.parametrize("by_s", [-3600.0, -31.0, 31.0, 3600.0])
@pytest.mark.parametrize("interval_s", [0.002, 0.02, 1.0])
def test_a_clock_that_is_set_costs_a_few_seconds_of_refusals_and_no_more(by_s: float, interval_s: float) -> None:
    queue = Queue(service_s=0.001, deadline_s=30, jump=lambda now: by_s if now > 20 else 0.0)
    queue.run(every(interval_s, 60))
    assert all(20 <= moment <= 20 + STUCK_S + 2 * interval_s + 0.1 for moment in queue.refused)
    assert queue.late == []


def test_two_clocks_that_drift_apart_for_weeks_do_not_matter() -> None:
    drift = 9e-5
    queue = Queue(service_s=0.2, deadline_s=2, jump=lambda now: -now * drift)
    queue.run(iter(number * 0.21 for number in range(1, 300_000)))  # never idle for long, and never late
    assert queue.refused == []


def test_a_time_that_is_over_or_none_is_told_and_one_that_nobody_gave_is_endless() -> None:
    lateness = Lateness(START, EPOCH)
    lateness.begin(START + 1)
    lateness.check({})
    lateness.check({TIMEOUT_HEADER: "1"})  # not from the gateway: counted from here
    with pytest.raises(DeadlinePassed):
        lateness.check({TIMEOUT_HEADER: "0"})
    for text in ("", "soon", "-1", "1.5", "0x10", "1e9", "9" * 16, "\u0661"):
        for asked in (lateness, Lateness(START, EPOCH)):
            with pytest.raises(UnreadableHeader, match="x-request-timeout-ms must be"):
                asked.check({TIMEOUT_HEADER: text})


def test_a_request_that_would_be_answered_too_late_is_not_begun() -> None:
    lateness = Lateness(START, EPOCH)
    lateness.begin(START + 1)
    lateness.end(START + 3, is_computed=True)  # a batch takes 2 s
    lateness.begin(START + 3)
    sent = {SENT_HEADER: str(round((EPOCH + 3) * 1000))}
    lateness.check({TIMEOUT_HEADER: "2600", **sent})
    with pytest.raises(DeadlinePassed):
        lateness.check({TIMEOUT_HEADER: "1500", **sent})
    lateness.begin(START + 4 + STUCK_S)  # nothing else came: it is tried, and the time measured anew
    lateness.check({TIMEOUT_HEADER: "1500", SENT_HEADER: str(round((EPOCH + 4 + STUCK_S) * 1000))})
