"""What several axes measure: processor time per request of gateway, node and workers, memory, and times of changes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.growth.curves import Collected
from benchmarks.harness.client import Address
from benchmarks.harness.commands import require_tsctl
from benchmarks.harness.figures import Turn
from benchmarks.harness.processes import children
from benchmarks.harness.workload import load
from benchmarks.targets.fleet import Fleet
from benchmarks.targets.gateway import envoy_bytes, envoy_pid
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.usage import cpu_seconds, memory_of
from tsctl.nodes.node import Node

MIB = 1 << 20
#: Failed requests of a turn, of those answered in a second.
MOST_FAILED = 0.01
#: Of a plot, and the unit of its curves.
COST, RATE, LATENCY = "processor time of a request", "requests/s", "latency"
MEMORY, TIME, SIZE = "memory", "time of a change", "documents"
#: Kinds of processes in `Turn.cpu_us`, as the curves name them.
GATEWAY, NODES, WORKERS, LOAD = "gateway", "node", "worker", "load client"


def seconds(act: Callable[[], object]) -> float:
    """How long the call takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def median_s(act: Callable[[int], object], times: int = 3) -> float:
    """The median of several calls, each of which gets its number."""
    return statistics.median(seconds(partial(act, number)) for number in range(times))


def command_s(project: Project, *arguments: str) -> float:
    """Seconds of a whole command of tsctl, Python's start included; raises NodeError where it fails."""
    return seconds(lambda: require_tsctl(project, *arguments))


def pids_of(nodes: Sequence[Node], gateway: int | None) -> dict[str, list[int]]:
    """The processes of these nodes and of the gateway, by kind."""
    servers = [node.pid for node in nodes if node.pid is not None]
    workers = [pid for server in servers for pid in children(server)]
    return {**({GATEWAY: [gateway]} if gateway is not None else {}), NODES: servers, WORKERS: workers}


def turn_through(fleet: Fleet, address: Address, body: bytes, connections: int, duration_s: int, folder: Path) -> Turn:
    """A turn of load through the fleet's gateway, with the processor time of each kind of process."""
    envoy = envoy_pid(fleet.gateway)
    return load(address, [body], connections, duration_s, folder, lambda: pids_of(fleet.nodes, envoy))


def add_turn(found: Collected, x: float, turn: Turn) -> None:
    """One round of the curves of requests.

    Raises:
        NodeError: more than one in a hundred failed, so that the figures are of something else.
    """
    if turn.failed > MOST_FAILED * turn.requests_s:
        raise NodeError(f"{turn.failed} requests failed at {x:g}", "See the log of the gateway and of the nodes.")
    cpu = turn.cpu_us or {}
    names = {kind: f"{kind}, processor time" for kind in (GATEWAY, NODES, WORKERS) if kind in cpu}
    found.add(COST, "us", x, {name: cpu[kind] for kind, name in names.items()})
    found.add(RATE, "requests/s", x, {"answered": turn.requests_s})
    if turn.p50_ms is not None and turn.p99_ms is not None:
        found.add(LATENCY, "ms", x, {"median": turn.p50_ms, "99th percentile": turn.p99_ms})


def add_memory(found: Collected, x: float, fleet: Fleet) -> None:
    """Memory of Envoy, and of nodes and workers, where pages that several processes share count once."""
    kinds = pids_of(fleet.nodes, None)
    values = {f"{kind}, memory": memory_of(pids).bytes / MIB for kind, pids in kinds.items()}
    found.add(MEMORY, "MiB", x, {"gateway, memory": envoy_bytes(fleet.gateway) / MIB, **values})


def idle_ms_a_second(pids: Sequence[int], for_s: float) -> float:
    """Processor time that the processes take while nobody asks anything of them, in ms each second."""
    before, begin = cpu_seconds(pids), time.perf_counter()
    time.sleep(for_s)
    return (cpu_seconds(pids) - before) / (time.perf_counter() - begin) * 1000


def kilobytes(path: Path) -> float:
    return path.stat().st_size / 1000
