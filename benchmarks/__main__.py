"""`python -m benchmarks`: measurements, each compared inside its own run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gameday import run as gameday_run
from benchmarks.harness import run
from benchmarks.harness.figures import Result
from benchmarks.simulation.workloads import workloads as simulated
from benchmarks.workloads import first_request as first_requests
from benchmarks.workloads import overhead as overheads
from benchmarks.workloads.gateway import WORKLOADS as GATEWAY
from benchmarks.workloads.handlers import WORKLOADS as HANDLERS
from tsctl.cli.context import open_deployment
from tsctl.cli.main import run_app
from tsctl.cli.models import Json
from tsctl.cli.output import print_json, print_table
from tsctl.config.project import find_project
from tsctl.errors import AnalysisError, NodeError, SpecError
from tsctl.host.progress import Progress

SIMULATED = list(simulated())
CANARIES = [canary.version for canary in gameday_run.CANARIES]

Rounds = Annotated[int, typer.Option(min=1, help="Turns of every target.")]
Seconds = Annotated[int, typer.Option(min=1, help="Measured load per turn.")]
Out = Annotated[Path | None, typer.Option(help="JSON file of the results; a file in .tsctl/bench if left out.")]

app = typer.Typer(help="Measure; every figure is compared inside one run.", no_args_is_help=True)


def only_option(keys: list[str]) -> typer.models.OptionInfo:
    """`--only` of a command, with its keys in the help text."""
    option: typer.models.OptionInfo = typer.Option(help=f"One of {', '.join(keys)}; repeatable. All if left out.")
    return option


@app.command("first-request")
def first_request(
    rounds: Annotated[int, typer.Option(min=1, help="Cold starts per model.")] = 5,
    json: Json = False,
) -> None:
    """The first request after READY against the median of the next hundred, and the same on stock TorchServe."""
    rows = first_requests.measure(*open_deployment(), rounds, Progress())
    if json:
        print_json([row.as_json() for row in rows])
        return
    columns = ("model", "handler", "first ms", "median ms", "ratio", "worst ratio")
    print_table(columns, [(r.model, r.handler, r.first_ms, r.median_ms, r.ratio, r.worst_ratio) for r in rows])


@app.command()
def overhead(rounds: Rounds = 3, seconds: Seconds = 10, json: Json = False) -> None:
    """A linear layer under 128 connections: this project's handler against TorchServe's own, in one run."""
    rows = overheads.measure(find_project(), rounds, seconds, Progress())
    if json:
        print_json([row.as_json() for row in rows])
        return
    columns = ("target", "requests/s", "p50 ms", "p99 ms", "failed", "times stock")
    print_table(columns, [(r.way, r.requests_s, r.p50_ms, r.p99_ms, r.failed, r.times_stock) for r in rows])


@app.command()
def handlers(
    only: Annotated[list[str] | None, only_option(list(HANDLERS))] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the handlers in one run, against stock TorchServe, FastAPI and bare loops (needs wrk)."""
    _run("handlers", HANDLERS, _chosen(only, HANDLERS), rounds, seconds, out, json)


@app.command()
def gateway(
    only: Annotated[list[str] | None, only_option(list(GATEWAY))] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the gateway in one run, on nodes and a gateway of its own (needs wrk)."""
    _run("gateway", GATEWAY, _chosen(only, GATEWAY), rounds, seconds, out, json)


@app.command()
def rollout(
    only: Annotated[list[str] | None, only_option(SIMULATED)] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated rollouts of each kind.")] = 10_000,
    out: Out = None,
    json: Json = False,
) -> None:
    """False rollbacks, and how soon faults are found, simulated with fixed seeds."""
    _run("rollout", simulated(runs), _chosen(only, SIMULATED), 1, 0, out, json)


@app.command()
def gameday(
    only: Annotated[list[str] | None, only_option(CANARIES)] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Release versions that are bad on purpose, and one that is not, under load; 6 where one is judged wrongly."""
    kept = find_project().state / "bench" / "gameday"
    workloads = gameday_run.workloads(_chosen(only, CANARIES), kept)

    def show(results: list[Result]) -> None:
        print_table(gameday_run.COLUMNS, [gameday_run.cells(row) for row in gameday_run.rows_of(results)])
        typer.echo()
        _show(results)

    results = _run("gameday", workloads, ["gameday"], 1, 0, out, json, show)
    if wrong := gameday_run.not_right(gameday_run.rows_of(results)):
        raise AnalysisError("; ".join(wrong), f"The journals are in {kept}.")


def _chosen(only: list[str] | None, keys: Collection[str]) -> list[str]:
    """The keys that `--only` names, all without it.

    Raises:
        SpecError: a key is unknown.
    """
    if unknown := [key for key in only or () if key not in keys]:
        raise SpecError(f"--only {', '.join(unknown)}: unknown", f"Known are {', '.join(keys)}.")
    return only or list(keys)


def _run(
    name: str,
    workloads: Mapping[str, run.Run],
    keys: list[str],
    rounds: int,
    seconds: int,
    out: Path | None,
    json: bool,
    show: Callable[[list[Result]], None] | None = None,
) -> list[Result]:
    """Measures, prints tables or JSON, and writes the JSON file.

    Raises:
        NodeError: a workload failed.
    """
    project, deployment = open_deployment()
    path = out or project.state / "bench" / f"{name}.json"
    results, document = run.run_workloads(workloads, project, deployment, keys, rounds, seconds, path, Progress())
    if json:
        print_json(document)
    else:
        (show or _show)(results)
        typer.echo(f"written to {project.relative(path)}")
    if document["failed"]:
        raise NodeError("; ".join(f"workload {key}: {reason}" for key, reason in document["failed"].items()))
    return results


def _show(results: list[Result]) -> None:
    if ways := run.way_rows(results):
        print_table(run.WAY_COLUMNS, ways)
        typer.echo()
    print_table(run.FIGURE_COLUMNS, run.figure_rows(results))
    for note in run.notes(results):
        typer.echo(note)


if __name__ == "__main__":
    run_app(app, "python -m benchmarks")
