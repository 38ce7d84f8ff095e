"""Workload A, what everything around a model costs: a linear layer under closed-loop load, by several ways in one run.

The load generator wrk shares the machine's cores with what it asks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import BASELINES
from benchmarks.harness.figures import Figure, Result, Target, Turn, median_turn, rate, times
from benchmarks.harness.scripts import script_says
from benchmarks.harness.workload import Traffic, Workload, load_turns, own_folder, started, take_turns, warm
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.node import OnNode, OnUvicorn, OwnNode, Way
from benchmarks.workloads.linear import VERSIONS, Linear, build_linear
from tsctl.config.project import Project
from tsctl.host.progress import Progress

CONNECTIONS = 128
WARMING_S = 8
OURS = VERSIONS["1.0"]
STOCK = "BaseHandler, stock TorchServe"
STOCK_HERE = "BaseHandler, this config.properties"
FASTAPI = "FastAPI, uvicorn, 2 processes"
TIMES_STOCK = Target(3.0)
TIMES_FASTAPI = Target(3.0)
REQUESTS_S = Target(10_000)
METRICS_SHARE = Target(0.02, is_ceiling=True)
#: Turns of a lone worker with its metrics on and off, and batches in each: half a minute for three rounds.
ALONE_TURNS, ALONE_BATCHES = 60, 150
ALONE_END_S = 120
JSON = "application/json"


@dataclass(frozen=True)
class Row:
    """One way under load; each figure is the median over the rounds."""

    way: str
    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int  # answers that are no 200, and socket errors, in all rounds
    times_stock: float  # requests_s over those of STOCK_HERE, inside each round

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(project: Project, rounds: int, seconds: int, progress: Progress) -> list[Row]:
    """The short form: a row for each way on one node with this project's settings.

    Raises:
        TsctlError: wrk is missing, or a way does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        workload = node_workload(project, build_linear(project, folder / "built", progress), folder)
        found = _measured(workload, rounds, seconds, folder, progress)
    rows = []
    for name, turns in found.items():
        turn, ratio = median_turn(turns), times("", turns, found[STOCK_HERE]).value or 0.0
        p50, p99 = round(turn.p50_ms or 0.0, 2), round(turn.p99_ms or 0.0, 2)
        rows.append(Row(name, round(turn.requests_s, 1), p50, p99, turn.failed, round(ratio, 2)))
    return rows


def run(project: Project, rounds: int, seconds: int, progress: Progress) -> Result:
    """All ways, and the figures that have targets.

    Raises:
        TsctlError: wrk is missing, or a way does not serve.
    """
    require_wrk()
    with own_folder() as folder:
        linear = build_linear(project, folder / "built", progress)
        workload = overhead_workload(project, linear, folder)
        found = _measured(workload, rounds, seconds, folder, progress)
        shares = _metrics_shares(linear, rounds, folder, progress)
    batch = linear.spec.serving("1.0").batch
    settings = {"connections": CONNECTIONS, "batch": batch.size, "max_delay_ms": batch.max_delay_ms, "threads": 1}
    figures = [*_figures(found), Figure("metrics, of a worker's time", "share", shares, METRICS_SHARE)]
    return Result("a", "a linear layer, JSON", settings, found, figures, workload.notes)


def node_workload(project: Project, linear: Linear, folder: Path) -> Workload:
    """This project's handler and TorchServe's own on one node with this project's settings."""
    here = OwnNode(project, folder / "here")
    missing = [name for version, name in VERSIONS.items() if version not in linear.archives]
    ways: list[Way] = [
        OnNode(name, here, linear.archives[version], JSON)
        for version, name in VERSIONS.items()
        if version in linear.archives
    ]
    ways.append(OnNode(STOCK_HERE, here, linear.archives["stock"], JSON))
    notes = tuple(f"{name}: benchmarks/archives/linear/archive.yaml has no such version" for name in missing)
    return Workload(Traffic([linear.sample], CONNECTIONS, WARMING_S), ways, scores, notes)


def overhead_workload(project: Project, linear: Linear, folder: Path) -> Workload:
    """The same, with TorchServe on its own defaults and FastAPI beside it."""
    near = node_workload(project, linear, folder)
    stock = OwnNode(project, folder / "stock", is_default=True)
    environment = {"LINEAR_FOLDER": str(linear.folder), "LINEAR_WEIGHTS": str(linear.weights)}
    application = BASELINES / "fastapi_linear.py"
    ways: list[Way] = [
        *near.ways,
        OnNode(STOCK, stock, linear.archives["stock"], JSON),
        OnUvicorn(FASTAPI, application, environment, "/predict"),
    ]
    return Workload(near.traffic, ways, scores, near.notes)


def scores(answer: Any) -> list[float]:
    """The ten numbers of an answer."""
    return [float(score) for score in answer["scores"]]


def _measured(workload: Workload, rounds: int, seconds: int, folder: Path, progress: Progress) -> dict[str, list[Turn]]:
    with started(workload, progress) as addresses:
        warm(workload, addresses, folder, progress)
        return take_turns(load_turns(workload, addresses, seconds, folder), rounds, progress)


def _figures(found: dict[str, list[Turn]]) -> list[Figure]:
    ours = found[OURS]
    return [
        times("over stock TorchServe", ours, found[STOCK], TIMES_STOCK),
        times("over FastAPI", ours, found[FASTAPI], TIMES_FASTAPI),
        rate("ServingHandler", ours, REQUESTS_S),
        times("of the same without metrics", ours, found[VERSIONS["1.0.no_metrics"]]),
        times("over BaseHandler on this config.properties", ours, found[STOCK_HERE]),
    ]


def _metrics_shares(linear: Linear, rounds: int, folder: Path, progress: Progress) -> tuple[float, ...]:
    """Which share of a worker's processor time its metrics take, by a worker of its own in each round."""
    shares: list[float] = []
    for number in range(rounds):
        with progress.step(f"round {number + 1} of {rounds}: metrics on and off in one worker") as step:
            own = folder / f"alone-{number}"
            own.mkdir()
            options = {
                "archive": linear.archives["1.0"], "sample": linear.folder / "samples" / "row.json", "folder": own,
                "batch": linear.spec.serving("1.0").batch.size, "turns": ALONE_TURNS, "batches": ALONE_BATCHES,
            }  # fmt: skip
            shares.append(round(script_says("worker_alone.py", options, ALONE_END_S)["share"], 4))
            step.done(f"{shares[-1]:.1%}")
    return tuple(shares)
