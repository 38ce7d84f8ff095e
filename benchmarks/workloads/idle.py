"""Latency of lone requests beside the model's: one connection, a few milliseconds between requests.

Overhead is the median latency minus the median of the bare call of the model. It includes the batch delay (1 ms).
"""

from __future__ import annotations

import statistics

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.latency import latencies_ms
from benchmarks.harness.run import Job
from benchmarks.harness.scripts import run_script
from benchmarks.harness.workload import Workload, own_folder, started
from benchmarks.workloads.linear import Linear, build_linear
from benchmarks.workloads.overhead import FASTAPI, OURS, STOCK, overhead_workload

REQUESTS = 300
PAUSE_S = 0.003
#: Requests before the first round, so many that the JVM compiles the path of one request.
WARMING = 2000
BARE_TIMEOUT_S = 120
OVERHEAD_MS = Goal(3.0, is_ceiling=True)
TARGETS = (OURS, STOCK, FASTAPI)


def run(job: Job) -> Result:
    """The overhead of each target, round by round.

    Raises:
        TsctlError: a target does not serve.
    """
    with own_folder() as folder:
        linear = build_linear(job.project, folder / "built", job.progress)
        whole = overhead_workload(job.project, linear, folder)
        targets = [target for target in whole.targets if target.name in TARGETS]
        with started(Workload(whole.requests, targets, whole.numbers), job.progress) as addresses:
            overheads = _overheads_ms(addresses, linear, job)
    figures = [
        Figure(f"{name}, median over the bare call", "ms", tuple(rounds), OVERHEAD_MS if name == OURS else None)
        for name, rounds in overheads.items()
    ]
    settings = {"connections": 1, "requests": REQUESTS, "pause_ms": PAUSE_S * 1000, "max_delay_ms": 1}
    return Result("idle", "lone requests to the linear layer", settings, {}, figures)


def _overheads_ms(addresses: dict[str, Address], linear: Linear, job: Job) -> dict[str, list[float]]:
    overheads: dict[str, list[float]] = {name: [] for name in addresses}
    for address in addresses.values():
        latencies_ms(address, linear.sample, WARMING)
    for number in range(job.rounds):
        with job.progress.step(f"round {number + 1} of {job.rounds}: lone requests") as step:
            bare = _bare_ms(linear)
            for name, address in addresses.items():
                median = statistics.median(latencies_ms(address, linear.sample, REQUESTS, PAUSE_S))
                overheads[name].append(round(median - bare, 3))
            step.done(", ".join(f"{rounds[-1]:.2f}" for rounds in overheads.values()) + " ms")
    return overheads


def _bare_ms(linear: Linear) -> float:
    """The median of the model's call on decoded input, in a process of its own."""
    options = {
        "folder": linear.folder, "weights": linear.weights, "sample": linear.folder / "samples" / "row.json",
        "calls": REQUESTS, "pause-s": PAUSE_S,
    }  # fmt: skip
    return float(run_script("bare_row.py", options, BARE_TIMEOUT_S)["median_ms"])
