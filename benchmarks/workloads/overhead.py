"""Workload a, the cost of all that surrounds a model: a linear layer under closed-loop load, on several targets.

The load generator wrk shares the machine's cores with the servers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Figure, Goal, Result, rate, times
from benchmarks.harness.run import Job
from benchmarks.harness.scripts import run_script
from benchmarks.harness.target import Target
from benchmarks.harness.workload import Requests, Workload, measure_turns, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import BenchmarkNode, NodeTarget
from benchmarks.targets.uvicorn import UvicornTarget
from benchmarks.workloads.linear import VERSIONS, Linear, build_linear
from tsctl.config.project import Project

CONNECTIONS = 128
WARMING_S = 8
OURS = VERSIONS["1.0"]
RECORDED = VERSIONS["1.0.records"]
STOCK = "BaseHandler, stock TorchServe"
STOCK_HERE = "BaseHandler, this config.properties"
FASTAPI = "FastAPI, uvicorn, 2 processes"
TIMES_STOCK = Goal(3.0)
TIMES_FASTAPI = Goal(3.0)
REQUESTS_S = Goal(10_000)
RECORDED_TIMES = Goal(0.95)
METRICS_SHARE = Goal(0.02, is_ceiling=True)
#: Turns of a lone worker with its metrics on and off, and batches in each: half a minute for three rounds.
RECORD_COSTS = {
    "a request that is not recorded": "unsampled_us", "a record": "record_us", "the same request": "item_us",
}  # fmt: skip
ALONE_TURNS, ALONE_BATCHES = 60, 150
ALONE_TIMEOUT_S = 120
JSON = "application/json"


def run(job: Job) -> Result:
    """All targets, and the figures that have goals.

    Raises:
        TsctlError: wrk is missing, or a target does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        linear = build_linear(job.project, folder / "built", job.progress)
        workload = overhead_workload(job.project, linear, folder)
        turns = measure_turns(workload, job.rounds, job.seconds, folder, job.progress)
        alone = alone_costs(linear, job, folder)
    figures = [
        times("over stock TorchServe", turns[OURS], turns[STOCK], TIMES_STOCK),
        times("over FastAPI", turns[OURS], turns[FASTAPI], TIMES_FASTAPI),
        rate("ServingHandler", turns[OURS], REQUESTS_S),
        times("of the same without metrics", turns[OURS], turns[VERSIONS["1.0.no_metrics"]]),
        times("of the same with 1 % recorded", turns[RECORDED], turns[OURS], RECORDED_TIMES),
        times("over BaseHandler on this config.properties", turns[OURS], turns[STOCK_HERE]),
        Figure("metrics, of a worker's time", "share", tuple(round(each["share"], 4) for each in alone), METRICS_SHARE),
        *(
            Figure(name, "microseconds", tuple(round(each[key], 2) for each in alone))
            for name, key in RECORD_COSTS.items()
        ),
    ]
    return Result("a", "a linear layer, JSON", _settings(linear), turns, figures)


def run_on_one_node(job: Job) -> Result:
    """The short form: one node with this project's settings.

    Raises:
        TsctlError: wrk is missing, or a target does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        linear = build_linear(job.project, folder / "built", job.progress)
        workload = node_workload(job.project, linear, folder)
        turns = measure_turns(workload, job.rounds, job.seconds, folder, job.progress)
    figures = [
        times(f"{name}, over BaseHandler", turns[name], turns[STOCK_HERE]) for name in turns if name != STOCK_HERE
    ]
    return Result("overhead", "a linear layer on one node", _settings(linear), turns, figures)


def node_workload(project: Project, linear: Linear, folder: Path) -> Workload:
    """This project's handler and TorchServe's own on one node with this project's settings."""
    node = BenchmarkNode(project, folder / "here")
    targets = [NodeTarget(name, node, linear.archives[version], JSON) for version, name in VERSIONS.items()]
    targets.append(NodeTarget(STOCK_HERE, node, linear.archives["stock"], JSON))
    return Workload(Requests([linear.sample], CONNECTIONS, WARMING_S), targets, scores)


def overhead_workload(project: Project, linear: Linear, folder: Path) -> Workload:
    """The same, and also TorchServe on its own defaults, and FastAPI."""
    short = node_workload(project, linear, folder)
    stock = BenchmarkNode(project, folder / "stock", is_default=True)
    environment = {"LINEAR_FOLDER": str(linear.folder), "LINEAR_WEIGHTS": str(linear.weights)}
    targets: list[Target] = [
        *short.targets,
        NodeTarget(STOCK, stock, linear.archives["stock"], JSON),
        UvicornTarget(FASTAPI, BASELINES / "fastapi_linear.py", environment, "/predict"),
    ]
    return Workload(short.requests, targets, scores)


def scores(answer: Any) -> list[float]:
    """The ten numbers of an answer."""
    return [float(score) for score in answer["scores"]]


def _settings(linear: Linear) -> dict[str, Any]:
    batch = linear.spec.serving("1.0").batch
    return {"connections": CONNECTIONS, "batch": batch.size, "max_delay_ms": batch.max_delay_ms, "threads": 1}


def _rounds(alone: list[dict[str, float]], key: str, digits: int) -> tuple[float, ...]:
    return tuple(round(each[key], digits) for each in alone)


def alone_costs(linear: Linear, job: Job, folder: Path) -> list[dict[str, float]]:
    """What metrics and records take of a worker's processor time, measured in a new worker for each round."""
    rounds: list[dict[str, float]] = []
    for number in range(job.rounds):
        with job.progress.step(
            f"round {number + 1} of {job.rounds}: metrics and records on and off in one worker"
        ) as step:
            empty = folder / f"alone-{number}"
            empty.mkdir()
            options = {
                "archive": linear.archives["1.0"], "sample": linear.folder / "samples" / "row.json", "folder": empty,
                "batch": linear.spec.serving("1.0").batch.size, "turns": ALONE_TURNS, "batches": ALONE_BATCHES,
            }  # fmt: skip
            rounds.append(run_script("worker_alone.py", options, ALONE_TIMEOUT_S))
            step.done(f"metrics {rounds[-1]['share']:.1%}, a record {rounds[-1]['record_us']:.1f} us")
    return rounds
