"""A model moves from engine to engine under load: TorchServe to uvicorn, to Triton, and back. No request may fail."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gameday.users import digit_bodies, digit_of, users
from benchmarks.harness.client import Answer, Load
from benchmarks.harness.commands import run_tsctl
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet, missing_engine, running
from tsctl.archive.build import build_version
from tsctl.archive.store import StoredArchive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import AnalysisError
from tsctl.host.progress import Progress

KEY = "moves"
TITLE = "digits moves from TorchServe to uvicorn, to Triton, and back"
MODEL, ARCHIVE = "digits", "1.0"
#: The engine of each version; all serve the same archive.
ENGINES = {"1.0": "torchserve", "1.0u": "uvicorn", "1.0t": "triton"}
MOVES = ("1.0u", "1.0t", "1.0")
CONNECTIONS, PAUSE_S = 16, 0.02
WARM_S = 3.0
#: Requests that the moves must have seen, and how long the last engine is asked for those that are missing.
REQUESTS, MOST_S = 20_000, 120.0
#: Slow answers are no reason to go back: who moves to an engine accepts its latency.
POLICY: dict[str, Any] = {
    "steps": [5, 25, 50, 100], "hold_s": 5, "max_hold_s": 60, "at_max_hold": "rollback", "min_requests": 200,
    "signals": ["errors", "refused", "mix"], "settle_s": 1, "tick_s": 0.5,
}  # fmt: skip


def run(job: Job) -> Result:
    """Move the model and count what users got.

    Raises:
        TsctlError: a node or the gateway does not serve, or a rollout was not promoted.
    """
    settings = {"connections": CONNECTIONS, "pause_s": PAUSE_S, "policy": POLICY}
    if missing := list(filter(None, (missing_engine(job.project, engine) for engine in ENGINES.values()))):
        return Result(KEY, TITLE, settings, {}, figures([], [], "; ".join(missing)))
    bodies = digit_bodies()
    with own_folder() as folder:
        own = own_project(job.project, folder / "own")
        archive = _built(job.project, own, job.progress)
        nodes = {engine: free_spec(engine) for engine in ENGINES.values()}
        targets = {(MODEL, version): {"archive": ARCHIVE, "nodes": [engine]} for version, engine in ENGINES.items()}
        served = [(MODEL, ARCHIVE)]
        with running(own, nodes, {(MODEL, ARCHIVE): archive}, served, job.progress, {}, POLICY, targets) as fleet:
            with users(fleet.address(f"/predictions/{MODEL}"), bodies, KEY, CONNECTIONS, PAUSE_S) as load:
                time.sleep(WARM_S)
                took = [_moved(fleet, version, load, job.progress) for version in MOVES]
                _wait_for_requests(load, job.progress)
            answers = list(load.answers)
    counts = Counter(answer.version or "none" for answer in answers)
    note = ", ".join(f"{version} on {engine} {counts[version]:,}" for version, engine in ENGINES.items())
    return Result(KEY, TITLE, settings, {}, figures(answers, took), (f"requests by version: {note}",))


def figures(answers: Sequence[Answer], took: Sequence[float], why_not: str = "") -> list[Figure]:
    """What users got, and how long each move took.

    Args:
        took: seconds of the moves, in the order of MOVES.
        why_not: why nothing was measured.
    """
    none = Goal(0, is_ceiling=True)
    failed = sum(answer.status != 200 for answer in answers)
    measured: dict[str, tuple[str, float, Goal | None]] = {
        "requests": ("requests", len(answers), Goal(REQUESTS)),
        "failed requests": ("requests", failed, none),
        "digits that engines classified differently": ("requests", differing(answers), none),
        **{f"move to {ENGINES[version]}": ("s", seconds, None) for version, seconds in zip(MOVES, took, strict=False)},
    }
    return [
        Figure(name, unit, () if why_not else (value,), goal, why_not=why_not)
        for name, (unit, value, goal) in measured.items()
    ]


def differing(answers: Sequence[Answer]) -> int:
    """How many digits were not always given the same class."""
    classes: dict[str, set[str]] = {}
    for answer in answers:
        if answer.status == 200:
            classes.setdefault(digit_of(answer), set()).add(answer.predicted)
    return sum(len(found) > 1 for found in classes.values())


def _moved(fleet: Fleet, version: str, load: Load, progress: Progress) -> float:
    """Release the version; returns the seconds that it took.

    Raises:
        AnalysisError: it was not promoted.
    """
    began, before = time.perf_counter(), len(load.answers)
    with progress.step(f"moving to {ENGINES[version]}") as step:
        ended = run_tsctl(fleet.project, "rollout", "start", MODEL, version)
        if ended.status != 0:
            raise AnalysisError(f"tsctl rollout start {MODEL} {version} ended with {ended.status}: {ended.stderr}")
        step.done(f"promoted; {len(load.answers) - before:,} requests meanwhile, {len(load.failed)} failed so far")
    return time.perf_counter() - began


def _wait_for_requests(load: Load, progress: Progress) -> None:
    until = time.perf_counter() + MOST_S
    with progress.step(f"asking until {REQUESTS:,} requests are answered"):
        while len(load.answers) < REQUESTS and time.perf_counter() < until:
            time.sleep(1)


def _built(project: Project, own: Project, progress: Progress) -> StoredArchive:
    with progress.step(f"building {MODEL}") as step:
        copied = Path(shutil.copytree(project.archives / MODEL, own.archives / MODEL))
        return build_version(own, copied, read_archive_spec(copied / "archive.yaml"), ARCHIVE, step.note).archive
