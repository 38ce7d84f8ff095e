"""Latency of the first request after READY against the requests that follow, here and on stock TorchServe.

Every round starts a node from nothing, so that the JVM is cold, and sends over a connection that is already open, so
that only the server is measured.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import BASELINES
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.latency import latencies_ms
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.targets.project import build_stock_archive, json_sample
from tsctl.archive.store import StoredArchive, find_archive
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project

FOLLOWING = 100
RATIO = Goal(1.5, is_ceiling=True)
#: At least so many cold starts: each has only one first request.
ROUNDS = 5


def run(job: Job) -> Result:
    """Every model of the deployment, and a stock archive of digits, on a node of the benchmark's own.

    Raises:
        ArchiveError: an archive is not built.
    """
    figures: list[Figure] = []
    with own_folder() as folder:
        node = BenchmarkNode(job.project, folder / "own")
        for model, spec in job.deployment.models.items():
            archive = find_archive(job.project, model, spec.default)
            figures += _figures(f"{model} (tsctl)", node, archive.path, archive, RATIO, job)
        if "digits" in job.deployment.models:
            digits = find_archive(job.project, "digits", job.deployment.models["digits"].default)
            stock = stock_digits(job.project, job.deployment, folder)
            figures += _figures("digits (stock BaseHandler)", node, stock, digits, None, job)
    return Result("first", "first request after READY", {"following": FOLLOWING}, {}, figures)


def stock_digits(project: Project, deployment: DeploymentSpec, folder: Path) -> Path:
    """An archive of digits' network and weights under TorchServe's own BaseHandler."""
    version = deployment.models["digits"].default
    weights = project.archives / "digits" / ".built" / version / "model.safetensors"
    extra = [weights, project.archives / "digits" / "model.py", project.archives / "digits" / "archive.yaml"]
    return build_stock_archive("stock_digits", version, BASELINES / "digits_handler.py", extra, folder)


def _figures(
    name: str, node: BenchmarkNode, archive: Path, sampled: StoredArchive, goal: Goal | None, job: Job
) -> list[Figure]:
    """The ratio of each cold start, and its two latencies.

    Args:
        sampled: the archive whose sample is sent.
    """
    body, media_type = json_sample(sampled)
    target = NodeTarget(name, node, archive, media_type)
    pairs = []
    with job.progress.step(name) as step:
        for number in range(job.rounds):
            step.note(f"round {number + 1} of {job.rounds}")
            pairs.append(_cold_start_ms(target, body))
        ratios = Figure(name, "times", tuple(round(first / median, 2) for first, median in pairs), goal)
        step.done(f"{ratios.value:g} times")
    return [
        ratios,
        Figure(f"{name}, first request", "ms", tuple(first for first, _ in pairs)),
        Figure(f"{name}, median of the next {FOLLOWING}", "ms", tuple(median for _, median in pairs)),
    ]


def _cold_start_ms(target: NodeTarget, body: bytes) -> tuple[float, float]:
    """Milliseconds of the first request and of the median of those that follow, on a node started for them."""
    try:
        first, *following = latencies_ms(target.start(), body, 1 + FOLLOWING)
    finally:
        target.stop()
    return round(first, 2), round(statistics.median(following), 2)
