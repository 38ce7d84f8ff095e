"""Growth with the batch: versions of a linear layer that compute 1 to 64 requests together, on one uvicorn node."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ARCHIVES
from benchmarks.growth.curves import Collected, Growth
from benchmarks.growth.measure import add_turn, turn_through
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.fleet import running_fleet
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_weights

KEY = "batch"
MODEL = "linear"
SIZES = (1, 2, 4, 8, 16, 32, 64)
CONNECTIONS = 128
DELAY_MS = 1


def version_of(size: int) -> str:
    return f"1.0.batch{size}"


def write_archive_of(source: Path, folder: Path) -> None:
    """A copy of the model with one version for each of SIZES."""
    shutil.copytree(source, folder)
    path = folder / "archive.yaml"
    spec: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec["versions"] = {version_of(size): {"batch": {"size": size, "max_delay_ms": DELAY_MS}} for size in SIZES}
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")


def run(job: Job) -> Growth:
    """Every size in every round.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    found, failed = Collected(), 0
    body = (ARCHIVES / MODEL / "samples" / "row.json").read_bytes().strip()
    served = [(MODEL, version_of(size)) for size in SIZES]
    with own_folder() as folder:
        own = folder / "own"
        own.mkdir()
        write_archive_of(ARCHIVES / MODEL, own / "archives" / MODEL)
        with running_fleet(job.project, own, 1, served, job.progress, engine="uvicorn") as fleet:
            address = fleet.address(f"/predictions/{MODEL}")
            for number in range(job.rounds):
                for size in SIZES:
                    set_weights(fleet.gateway, MODEL, {version_of(size): TOTAL})
                    with job.progress.step(f"round {number + 1} of {job.rounds}: batches of {size}") as step:
                        turn = turn_through(fleet, address, body, CONNECTIONS, job.seconds, folder)
                        step.done(f"{turn.requests_s:,.0f} requests/s, {turn.failed} failed")
                    failed += turn.failed
                    add_turn(found, size, turn)
    settings = {"connections": CONNECTIONS, "max_delay_ms": DELAY_MS}
    notes = (f"{failed} requests failed",) if failed else ()
    return Growth(
        KEY, "a linear layer on a uvicorn node", settings, {}, [], notes, "requests in a batch at most", found.curves()
    )
