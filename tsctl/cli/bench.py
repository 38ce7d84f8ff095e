"""`tsctl bench`: measurements, each compared inside its own run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.bench.figures import Result
    from tsctl.bench.run import Run


class Workload(StrEnum):
    """What `tsctl bench handlers` measures."""

    A = "a"
    B = "b"
    C = "c"
    IDLE = "idle"
    CACHE = "cache"
    FIRST = "first"


class GatewayWorkload(StrEnum):
    """What `tsctl bench gateway` measures."""

    WEIGHTS = "weights"
    FAULTS = "faults"
    COST = "cost"
    SHADOW = "shadow"


class RolloutWorkload(StrEnum):
    """What `tsctl bench rollout` simulates."""

    IDENTICAL = "identical"
    CAUGHT = "caught"
    FAULTS = "faults"


class GamedayCanary(StrEnum):
    """What `tsctl bench gameday` releases."""

    EXCEPTIONS = "exceptions"
    SLOWER = "slower"
    FLIPPED = "flipped"
    LEAKS = "leaks"
    SLOW_START = "slow_start"
    CRASHES = "crashes"
    WRONG = "wrong"
    NAN = "nan"
    HANGS = "hangs"
    SAME = "same"


app = typer.Typer(help="Measure; every figure is compared inside one run.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure; every figure is compared inside one run."""


@app.command("first-request")
def first_request(
    rounds: Annotated[int, typer.Option(min=1, help="Cold starts per model.")] = 5,
    json: Json = False,
) -> None:
    """The first request after READY against the median of the next hundred, and the same on stock TorchServe."""
    from tsctl.bench.first_request import measure
    from tsctl.host.progress import Progress

    rows = measure(*open_deployment(), rounds, Progress())
    if json:
        print_json([row.as_json() for row in rows])
        return
    columns = ("model", "handler", "first ms", "median ms", "ratio", "worst ratio")
    print_table(columns, [(r.model, r.handler, r.first_ms, r.median_ms, r.ratio, r.worst_ratio) for r in rows])


@app.command()
def overhead(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every way.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Measured load per turn.")] = 10,
    json: Json = False,
) -> None:
    """A linear layer under 128 connections: this project's handler against TorchServe's own, in one run."""
    from tsctl.bench.overhead import measure
    from tsctl.config.project import find_project
    from tsctl.host.progress import Progress

    rows = measure(find_project(), rounds, seconds, Progress())
    if json:
        print_json([row.as_json() for row in rows])
        return
    columns = ("way", "requests/s", "p50 ms", "p99 ms", "failed", "times stock")
    print_table(columns, [(r.way, r.requests_s, r.p50_ms, r.p99_ms, r.failed, r.times_stock) for r in rows])


Rounds = Annotated[int, typer.Option(min=1, help="Turns of every way.")]
Seconds = Annotated[int, typer.Option(min=1, help="Measured load per turn.")]
Out = Annotated[Path | None, typer.Option(help="Where the results go as JSON. If not given: a file in .tsctl/bench.")]


@app.command()
def handlers(
    only: Annotated[
        list[Workload] | None, typer.Option(help="One workload; may be given several times. All, if not given.")
    ] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the handlers in one run, against stock TorchServe, FastAPI and bare loops (needs wrk)."""
    from tsctl.bench.handlers import WORKLOADS

    _run("handlers", WORKLOADS, [workload.value for workload in only or Workload], rounds, seconds, out, json)


@app.command()
def gateway(
    only: Annotated[
        list[GatewayWorkload] | None, typer.Option(help="One workload; may be given several times. All, if not given.")
    ] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the gateway in one run, on nodes and a gateway of its own (needs wrk)."""
    from tsctl.bench.gateway import WORKLOADS

    _run("gateway", WORKLOADS, [workload.value for workload in only or GatewayWorkload], rounds, seconds, out, json)


@app.command()
def rollout(
    only: Annotated[
        list[RolloutWorkload] | None, typer.Option(help="One workload; may be given several times. All, if not given.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated rollouts of each kind.")] = 10_000,
    out: Out = None,
    json: Json = False,
) -> None:
    """False rollbacks, and how soon faults are found, simulated with fixed seeds."""
    from tsctl.bench.rollout import workloads

    _run("rollout", workloads(runs), [workload.value for workload in only or RolloutWorkload], 1, 0, out, json)


@app.command()
def gameday(
    only: Annotated[
        list[GamedayCanary] | None, typer.Option(help="One canary; may be given several times. All, if not given.")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Release versions that are bad on purpose, and one that is not, under load; 6 where one is judged wrongly."""
    from tsctl.bench import gameday
    from tsctl.errors import AnalysisError

    kept = open_deployment()[0].state / "bench" / "gameday"
    workloads = gameday.workloads([one.value for one in only or ()], kept)

    def show(results: list[Result]) -> None:
        print_table(gameday.COLUMNS, [gameday.cells(one) for one in gameday.rows_of(results)])
        typer.echo()
        _show(results)

    results = _run("gameday", workloads, ["gameday"], 1, 0, out, json, show)
    if wrong := gameday.not_right(gameday.rows_of(results)):
        raise AnalysisError("; ".join(wrong), f"The journals are in {kept}.")


def _run(
    name: str,
    workloads: Mapping[str, Run],
    keys: list[str],
    rounds: int,
    seconds: int,
    out: Path | None,
    json: bool,
    show: Callable[[list[Result]], None] | None = None,
) -> list[Result]:
    """What was measured; told, and written as JSON.

    Raises:
        NodeError: a workload failed.
    """
    from tsctl.bench.run import run_workloads
    from tsctl.errors import NodeError
    from tsctl.host.progress import Progress

    project, deployment = open_deployment()
    path = out or project.state / "bench" / f"{name}.json"
    results, document = run_workloads(workloads, project, deployment, keys, rounds, seconds, path, Progress())
    if json:
        print_json(document)
    else:
        (show or _show)(results)
        typer.echo(f"written to {project.relative(path)}")
    if document["failed"]:
        raise NodeError("; ".join(f"workload {key}: {reason}" for key, reason in document["failed"].items()))
    return results


def _show(results: list[Result]) -> None:
    from tsctl.bench import run

    if ways := run.way_rows(results):
        print_table(run.WAY_COLUMNS, ways)
        typer.echo()
    print_table(run.FIGURE_COLUMNS, run.figure_rows(results))
    for note in run.notes(results):
        typer.echo(note)
