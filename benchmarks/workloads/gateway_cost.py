"""What the gateway adds to a request: lone requests and requests a second, past it and through it, in one run."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Figure, Result, Target, Turn, times
from benchmarks.harness.workload import LEAD_S, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.fleet import running_fleet
from benchmarks.workloads.idle import latencies_ms
from tsctl.config.project import Project
from tsctl.host.progress import Progress

MODEL, VERSION = "linear", "1.0"
DIRECT, THROUGH = "node", "gateway"
CONNECTIONS = (1, 16, 64)
WARMING_S, WARMING_CONNECTIONS = 8, 64
LONE = 1000
OVERHEAD_MS = Target(1.0, is_ceiling=True)


def run(project: Project, rounds: int, seconds: int, progress: Progress) -> Result:
    """Both ways in turns, to the same worker.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    with own_folder() as folder, running_fleet(project, folder / "own", 1, [(MODEL, VERSION)], progress) as fleet:
        ways = {DIRECT: fleet.direct(MODEL, VERSION), THROUGH: fleet.address(f"/predictions/{MODEL}")}
        body = (fleet.project.archives / MODEL / "samples" / "row.json").read_bytes().strip()
        with progress.step("warming both ways"):
            for address in ways.values():
                script = write_script(folder, address.headers, [body])
                run_wrk(address.url, script, WARMING_CONNECTIONS, WARMING_S)
        added = _lone(ways, body, rounds, progress)
        turns = _loaded(ways, body, rounds, seconds, folder, progress)
    figures = [Figure("added to a lone request, median", "ms", tuple(added), OVERHEAD_MS)]
    figures += [
        times(f"{count} connections, of the node's", turns[f"{THROUGH}, {count}"], turns[f"{DIRECT}, {count}"])
        for count in CONNECTIONS
    ]
    return Result("cost", "past the gateway and through it", {"connections": CONNECTIONS}, turns, figures)


def _lone(ways: dict[str, Address], body: bytes, rounds: int, progress: Progress) -> list[float]:
    added = []
    for number in range(rounds):
        with progress.step(f"round {number + 1} of {rounds}: lone requests") as step:
            found = {name: statistics.median(latencies_ms(way, body, LONE, 0.0)) for name, way in ways.items()}
            added.append(round(found[THROUGH] - found[DIRECT], 3))
            step.done(", ".join(f"{name} {ms:.2f} ms" for name, ms in found.items()))
    return added


def _loaded(
    ways: dict[str, Address], body: bytes, rounds: int, seconds: int, folder: Path, progress: Progress
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {}
    for number in range(rounds):
        for count in CONNECTIONS:
            with progress.step(f"round {number + 1} of {rounds}: {count} connections") as step:
                said = []
                for name, address in ways.items():
                    script = write_script(folder, address.headers, [body])
                    run_wrk(address.url, script, count, LEAD_S)
                    seen, _ = run_wrk(address.url, script, count, seconds)
                    turn = Turn(seen.requests_s, seen.p50_ms, seen.p99_ms, seen.failed)
                    turns.setdefault(f"{name}, {count}", []).append(turn)
                    said.append(f"{name} {seen.requests_s:,.0f}")
                step.done(", ".join(said) + " requests/s")
    return turns
