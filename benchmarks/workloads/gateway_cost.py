"""The cost of the gateway: lone requests and requests/s, past it and through it, in one run."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Goal, Result, Turn, times
from benchmarks.harness.latency import latencies_ms
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.fleet import running_fleet

MODEL, VERSION = "linear", "1.0"
DIRECT, THROUGH = "node", "gateway"
CONNECTIONS = (1, 16, 64)
WARMING_S, WARMING_CONNECTIONS = 8, 64
LONE = 1000
OVERHEAD_MS = Goal(1.0, is_ceiling=True)


def run(job: Job) -> Result:
    """The node and the gateway in turns, before the same worker.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    served = [(MODEL, VERSION)]
    with own_folder() as folder, running_fleet(job.project, folder / "own", 1, served, job.progress) as fleet:
        addresses = {DIRECT: fleet.direct(MODEL, VERSION), THROUGH: fleet.address(f"/predictions/{MODEL}")}
        body = (fleet.project.archives / MODEL / "samples" / "row.json").read_bytes().strip()
        with job.progress.step("warming both"):
            for address in addresses.values():
                script = write_script(folder, address.headers, [body])
                run_wrk(address.url, script, WARMING_CONNECTIONS, WARMING_S)
        added = _added_ms(addresses, body, job)
        turns = _turns(addresses, body, folder, job)
    figures = [Figure("added to a lone request, median", "ms", tuple(added), OVERHEAD_MS)]
    figures += [
        times(f"{count} connections, of the node's", turns[f"{THROUGH}, {count}"], turns[f"{DIRECT}, {count}"])
        for count in CONNECTIONS
    ]
    return Result("cost", "past the gateway and through it", {"connections": CONNECTIONS}, turns, figures)


def _added_ms(addresses: dict[str, Address], body: bytes, job: Job) -> list[float]:
    added = []
    for number in range(job.rounds):
        with job.progress.step(f"round {number + 1} of {job.rounds}: lone requests") as step:
            medians = {
                name: statistics.median(latencies_ms(address, body, LONE)) for name, address in addresses.items()
            }
            added.append(round(medians[THROUGH] - medians[DIRECT], 3))
            step.done(", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items()))
    return added


def _turns(addresses: dict[str, Address], body: bytes, folder: Path, job: Job) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {}
    for number in range(job.rounds):
        for count in CONNECTIONS:
            with job.progress.step(f"round {number + 1} of {job.rounds}: {count} connections") as step:
                round_turns = {
                    name: load(address, [body], count, job.seconds, folder) for name, address in addresses.items()
                }
                step.done(
                    ", ".join(f"{name} {turn.requests_s:,.0f}" for name, turn in round_turns.items()) + " requests/s"
                )
            for name, turn in round_turns.items():
                turns.setdefault(f"{name}, {count}", []).append(turn)
    return turns
