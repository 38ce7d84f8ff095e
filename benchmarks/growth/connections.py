"""Growth with connections: a linear layer on one uvicorn node behind the gateway, in a closed loop."""

from __future__ import annotations

from benchmarks.growth.curves import Collected, Growth
from benchmarks.growth.measure import add_memory, add_turn, turn_through
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.workloads.gateway_cost import MODEL, fleet_of_one

KEY = "connections"
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
WARMING_S = 4


def run(job: Job) -> Growth:
    """Every count in every round.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    found, failed = Collected(), 0
    with own_folder() as folder, fleet_of_one(job, folder) as (fleet, body):
        address = fleet.address(f"/predictions/{MODEL}")
        turn_through(fleet, address, body, 128, WARMING_S, folder)
        for number in range(job.rounds):
            for count in COUNTS:
                with job.progress.step(f"round {number + 1} of {job.rounds}: {count} connections") as step:
                    turn = turn_through(fleet, address, body, count, job.seconds, folder)
                    step.done(f"{turn.requests_s:,.0f} requests/s, {turn.failed} failed")
                failed += turn.failed
                add_turn(found, count, turn)
                add_memory(found, count, fleet)
    notes = (f"{failed} requests failed",) if failed else ()
    return Growth(KEY, "a linear layer on a uvicorn node", {"batch": 32}, {}, [], notes, "connections", found.curves())
