"""What a lone request waits for beside the model: one connection, a few milliseconds between requests.

Overhead is the median latency minus the median of the bare call of the model. It includes the batch delay (1 ms).
"""

from __future__ import annotations

import http.client
import statistics
import time
from urllib.parse import urlsplit

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.scripts import script_says
from benchmarks.harness.workload import ANSWER_S, Workload, own_folder, started
from benchmarks.workloads.linear import Linear, build_linear
from benchmarks.workloads.overhead import FASTAPI, OURS, STOCK, overhead_workload
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

REQUESTS = 300
PAUSE_S = 0.003
#: Requests before the first round, as many as make the JVM compile what one request passes.
WARMING = 2000
BARE_END_S = 120
OVERHEAD_MS = Target(3.0, is_ceiling=True)
WAYS = (OURS, STOCK, FASTAPI)


def run(project: Project, rounds: int, progress: Progress) -> Result:
    """The overhead of each way, round by round.

    Raises:
        TsctlError: a way does not serve.
    """
    with own_folder() as folder:
        linear = build_linear(project, folder / "built", progress)
        whole = overhead_workload(project, linear, folder)
        workload = Workload(whole.traffic, [way for way in whole.ways if way.name in WAYS], whole.numbers)
        with started(workload, progress) as addresses:
            overheads = _rounds(workload, addresses, linear, rounds, progress)
    figures = [
        Figure(f"{way}, median over the bare call", "ms", tuple(found), OVERHEAD_MS if way == OURS else None)
        for way, found in overheads.items()
    ]
    settings = {"connections": 1, "requests": REQUESTS, "pause_ms": PAUSE_S * 1000, "max_delay_ms": 1}
    return Result("idle", "lone requests to the linear layer", settings, {}, figures)


def latencies_ms(address: Address, body: bytes, count: int, pause_s: float) -> list[float]:
    """Milliseconds of each request over one connection that was opened before.

    Raises:
        NodeError: an answer is no 200.
    """
    split = urlsplit(address.url)
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=ANSWER_S)
    connection.connect()
    taken = []
    for _ in range(count):
        time.sleep(pause_s)
        begin = time.perf_counter()
        connection.request("POST", split.path, body, dict(address.headers))
        answer = connection.getresponse()
        answer.read()
        taken.append((time.perf_counter() - begin) * 1000)
        if answer.status != 200:
            raise NodeError(f"{address.url} answered {answer.status}")
    connection.close()
    return taken


def _rounds(
    workload: Workload, addresses: dict[str, Address], linear: Linear, rounds: int, progress: Progress
) -> dict[str, list[float]]:
    body = workload.traffic.bodies[0]
    overheads: dict[str, list[float]] = {way.name: [] for way in workload.ways}
    for address in addresses.values():
        latencies_ms(address, body, WARMING, 0.0)
    for number in range(rounds):
        with progress.step(f"round {number + 1} of {rounds}: lone requests") as step:
            bare = _bare_ms(linear)
            for name, address in addresses.items():
                median = statistics.median(latencies_ms(address, body, REQUESTS, PAUSE_S))
                overheads[name].append(round(median - bare, 3))
            step.done(", ".join(f"{found[-1]:.2f}" for found in overheads.values()) + " ms")
    return overheads


def _bare_ms(linear: Linear) -> float:
    """The median of the model's call on input that is decoded already, in a process of its own."""
    options = {
        "folder": linear.folder, "weights": linear.weights, "sample": linear.folder / "samples" / "row.json",
        "calls": REQUESTS, "pause-s": PAUSE_S,
    }  # fmt: skip
    return float(script_says("bare_row.py", options, BARE_END_S)["median_ms"])
