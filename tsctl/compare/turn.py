"""Measures one engine in one round: started from nothing, loaded, and stopped."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from tsctl.compare.contender import Contender, Endpoint
from tsctl.compare.load.figures import LoadFigures, OverloadFigures, load_figures, overload_figures
from tsctl.compare.load.order import Order
from tsctl.compare.load.run import run_load
from tsctl.compare.load.schedule import at_least_one, phases, send_times
from tsctl.compare.recorded import RecordedRequest
from tsctl.compare.result import LOAD_SHARES, Turn
from tsctl.compare.saturation import Step, next_connections, saturating
from tsctl.errors import NodeError
from tsctl.host.progress import Note
from tsctl.host.usage import cpu_seconds, memory_of, process_tree
from tsctl.nodes.observed import Reply

#: Seconds that one answer may take outside of a load.
ANSWER_S = 120.0
#: Requests in flight while answers are compared that an engine gives in other batches.
TOGETHER = 16
#: Connections of an open loop: as many requests may be under way at a time, and further ones wait to be sent.
MOST_CLIENTS = 256
#: The overload, as a multiple of the capacity, and the load after it.
OVERLOAD, AFTER = 2.0, 0.5
#: Seconds of the load after an overload.
AFTER_S = 4.0
#: An answer after an overload is in time when it takes no longer than this many times the p99 at half of the capacity.
SLOW_TIMES, SLOW_MS = 3.0, 50.0
#: Further connections that an overload needs beyond the queue, so that the queue can be full.
BEYOND_QUEUE = 128


@dataclass(frozen=True)
class Plan:
    """How long each part of a turn takes.

    Args:
        seconds: measured load of each kind.
        warm_s: load before the first of them, which is not counted.
        connections: that saturate the engine; None: they are searched for.
        queue: requests that may wait in the engine, for the overload; None: no overload is measured.
    """

    seconds: float
    warm_s: float
    connections: int | None = None
    queue: int | None = None

    @property
    def step_s(self) -> float:
        """Load of each step of the search for saturation, and of lone requests."""
        return max(0.5, self.seconds / 4)


@dataclass(frozen=True)
class Started:
    """An engine that is ready."""

    endpoint: Endpoint
    ready_s: float
    first_ms: float


def start(contender: Contender, request: RecordedRequest) -> Started:
    """Start the engine from nothing, and send it its first request.

    Raises:
        TsctlError: it does not get ready, or does not answer with 200.
    """
    begin = time.perf_counter()
    endpoint = contender.start()
    ready_s = time.perf_counter() - begin
    begin = time.perf_counter()
    reply = ask(endpoint, request)
    first_ms = (time.perf_counter() - begin) * 1000
    if reply.status != 200:
        text = reply.body[:300].decode("utf-8", "replace")
        raise NodeError(f"{contender.name} answers {request.name} with {reply.status}: {text}")
    return Started(endpoint, ready_s, first_ms)


def ask(endpoint: Endpoint, request: RecordedRequest) -> Reply:
    """The answer to one request, over a connection of its own.

    Raises:
        NodeError: there is none.
    """
    message = endpoint.message(request)
    head, _, body = message.partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:]]
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=ANSWER_S)
    try:
        connection.request("POST", endpoint.path, body, {name: value for name, _, value in lines if name != "host"})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return endpoint.unwrap(Reply(response.status, response.read(), headers))
    except (OSError, http.client.HTTPException) as error:
        raise NodeError(f"{endpoint.host}:{endpoint.port} does not answer: {error}") from None
    finally:
        connection.close()


def ask_together(endpoint: Endpoint, requests: Sequence[RecordedRequest]) -> list[Reply]:
    """The answers to requests of which TOGETHER are in flight at a time, in order; raises as `ask`."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(partial(ask, endpoint), requests))


def search(started: Started, messages: Sequence[bytes], plan: Plan, note: Note) -> int:
    """The connections that saturate the engine: the plan's, or those found step by step after a warm-up.

    Raises:
        NodeError: the load failed.
    """
    if plan.connections is not None:
        return plan.connections
    steps: list[Step] = []
    _closed(started.endpoint, messages, 32, plan.warm_s)
    while (connections := next_connections(steps)) is not None:
        rate = _closed(started.endpoint, messages, connections, plan.step_s).answered_s
        steps.append((connections, rate))
        note(f"{connections} connections: {rate:,.0f} requests/s")
    return saturating(steps)


def measure(
    contender: Contender, started: Started, messages: Sequence[bytes], connections: int, plan: Plan, note: Note
) -> Turn:
    """All loads of one turn, one after the other.

    Raises:
        NodeError: a load failed, or nothing was answered.
    """
    note(f"warming with {connections} connections")
    _closed(started.endpoint, messages, connections, plan.warm_s)
    note("saturated")
    before = cpu_seconds(process_tree(contender.pids()))
    saturated, requests = _closed_counted(started.endpoint, messages, connections, plan.seconds)
    spent = cpu_seconds(process_tree(contender.pids())) - before
    capacity = saturated.answered_s
    if capacity <= 0:
        raise NodeError(f"{contender.name} answered nothing in {plan.seconds:g} s: {saturated.statuses}")
    note("lone requests")
    lone = _closed(started.endpoint, messages, 1, plan.step_s)
    open_loops = {}
    for share in LOAD_SHARES:
        note(f"open loop at {share:.0%}")
        open_loops[share] = _open(started.endpoint, messages, share * capacity, plan.seconds)
    memory = memory_of(process_tree(contender.pids()))
    turn = Turn(
        ready_s=started.ready_s,
        first_ms=started.first_ms,
        lone=lone,
        saturated=saturated,
        open_loops=open_loops,
        cpu_s_per_1000=spent / requests * 1000,
        memory_bytes=memory.bytes,
        is_proportional=memory.is_proportional,
    )
    if plan.queue is None:
        return turn
    note("saturated again, before the overload")
    capacity = _closed(started.endpoint, messages, connections, plan.seconds).answered_s or capacity
    note("overloaded")
    slow_ms = max(SLOW_MS, SLOW_TIMES * open_loops[LOAD_SHARES[0]].p99_ms)
    return replace(turn, overload=_overload(started.endpoint, messages, capacity, plan.seconds, plan.queue, slow_ms))


def _closed(endpoint: Endpoint, messages: Sequence[bytes], connections: int, seconds: float) -> LoadFigures:
    return _closed_counted(endpoint, messages, connections, seconds)[0]


def _closed_counted(
    endpoint: Endpoint, messages: Sequence[bytes], connections: int, seconds: float
) -> tuple[LoadFigures, int]:
    """The figures, and how many requests were answered in all, those after the end included."""
    noted = run_load(_order(endpoint, connections, seconds), messages)
    return load_figures(noted, connections), max(1, len(noted.came))


def _open(endpoint: Endpoint, messages: Sequence[bytes], rate: float, seconds: float) -> LoadFigures:
    moments = at_least_one(send_times(rate, seconds))
    return load_figures(run_load(_order(endpoint, MOST_CLIENTS, seconds), messages, moments), MOST_CLIENTS, rate)


def _overload(
    endpoint: Endpoint, messages: Sequence[bytes], capacity: float, seconds: float, queue: int, slow_ms: float
) -> OverloadFigures:
    offered = OVERLOAD * capacity
    moments = phases((offered, seconds), (AFTER * capacity, AFTER_S))
    order = _order(endpoint, queue + BEYOND_QUEUE, seconds + AFTER_S)
    return overload_figures(run_load(order, messages, at_least_one(moments)), capacity, offered, seconds, slow_ms)


def _order(endpoint: Endpoint, connections: int, seconds: float) -> Order:
    return Order(endpoint.host, endpoint.port, connections, seconds, endpoint.is_enveloped)
