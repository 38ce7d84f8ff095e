"""`python -m benchmarks`: measurements, each compared inside its own run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import CHECKOUT
from benchmarks.crash_tests import run as crash_run
from benchmarks.crash_tests.cases import CASES
from benchmarks.crash_tests.operators import NOWHERE, PLACES
from benchmarks.gameday import drift as gameday_drift
from benchmarks.gameday import drift_cases
from benchmarks.gameday import run as gameday_run
from benchmarks.gameday import texts as gameday_texts
from benchmarks.growth import page as growth_page
from benchmarks.growth import table as growth_table
from benchmarks.growth.axes import AXES
from benchmarks.growth.curves import growths_of
from benchmarks.harness import run
from benchmarks.harness.figures import Result
from benchmarks.own_models.files import MODELS
from benchmarks.simulation.drift_workloads import workloads as drift_simulations
from benchmarks.simulation.shadow_workloads import workloads as shadow_simulations
from benchmarks.simulation.workloads import RUNS
from benchmarks.simulation.workloads import workloads as simulations
from benchmarks.text import table as text_table
from benchmarks.text.parts import PARTS as TEXT
from benchmarks.tuning.grid import CASES as TUNED
from benchmarks.tuning.run import SEEDS
from benchmarks.tuning.run import workloads as tune_workloads
from benchmarks.workloads.engine_moves import KEY as MOVES
from benchmarks.workloads.engine_moves import run as run_moves
from benchmarks.workloads.engines import CASES as ENGINES
from benchmarks.workloads.engines import workloads as engine_workloads
from benchmarks.workloads.first_request import run as run_first_request
from benchmarks.workloads.gateway import WORKLOADS as GATEWAY
from benchmarks.workloads.handlers import WORKLOADS as HANDLERS
from benchmarks.workloads.overhead import run_on_one_node
from benchmarks.workloads.records import run as run_records
from benchmarks.workloads.records_cost import workloads as records_costs
from benchmarks.workloads.worker_start import run as run_worker_start
from tsctl.cli.context import open_deployment
from tsctl.cli.main import run_app
from tsctl.cli.options import Json
from tsctl.cli.output import print_json, print_table
from tsctl.config.project import find_project
from tsctl.errors import AnalysisError, NodeError, SpecError
from tsctl.host.progress import Progress

SIMULATIONS = list(simulations())
SHADOWS, DRIFTS = list(shadow_simulations()), list(drift_simulations())
RECORDS_COSTS = records_costs()
CANARIES = [canary.version for canary in gameday_run.CANARIES]
TEXT_CANARIES = [gameday_texts.key_of(canary) for canary in gameday_texts.CANARIES]
DRIFT_CASES = [case.key for case in drift_cases.CASES]
OWN_MODELS = [model.key for model in MODELS]
CRASH_CASES = {case.name: case for case in CASES}

Rounds = Annotated[int, typer.Option(min=1, help="Turns of every target.")]
Seconds = Annotated[int, typer.Option(min=1, help="Measured load per turn.")]
Out = Annotated[Path | None, typer.Option(help="JSON file for the results; a file in .tsctl/bench if left out.")]

app = typer.Typer(help="Measure; every figure is compared inside one run.", no_args_is_help=True, add_completion=False)


def only_option(keys: Collection[str]) -> typer.models.OptionInfo:
    """`--only` of a command, with its keys in the help text."""
    option: typer.models.OptionInfo = typer.Option(help=f"One of {', '.join(keys)}; repeatable. All if left out.")
    return option


@app.command("first-request")
def first_request(
    rounds: Annotated[int, typer.Option(min=1, help="Cold starts per model.")] = 5,
    out: Out = None,
    json: Json = False,
) -> None:
    """The first request after READY against the median of the next hundred, and the same on stock TorchServe."""
    _run("first-request", {"first": run_first_request}, ["first"], rounds, 0, out, json)


@app.command()
def worker_start(rounds: Rounds = 3, out: Out = None, json: Json = False) -> None:
    """Processor time, time and memory of more workers: forked, and each started alone."""
    _run("worker-start", {"worker-start": run_worker_start}, ["worker-start"], rounds, 0, out, json)


@app.command()
def own_models(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(OWN_MODELS)}; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Ten models that nobody made for tsctl: commands and seconds from each one's file to an answer, and a rollout."""
    from benchmarks.own_models.run import measure

    ways = measure(only or (), Progress())
    if json:
        print_json([asdict(way) for way in ways])
        return
    columns = ("MODEL", "IS", "COMMANDS", "EDITED FILES", "SECONDS", "ROLLOUT S", "ANSWER")
    rows = [
        (
            way.key, way.words, str(len(way.commands)), str(way.edited), f"{way.seconds:.1f}",
            "-" if way.rollout_s is None else f"{way.rollout_s:.1f}", way.failed or way.answer,
        )
        for way in ways
    ]  # fmt: skip
    print_table(columns, rows)


@app.command()
def overhead(rounds: Rounds = 3, seconds: Seconds = 10, out: Out = None, json: Json = False) -> None:
    """A linear layer under 128 connections: this project's handler against TorchServe's own, in one run."""
    _run("overhead", {"overhead": run_on_one_node}, ["overhead"], rounds, seconds, out, json)


@app.command()
def records(rounds: Rounds = 3, out: Out = None, json: Json = False) -> None:
    """Queries over ten million generated prediction records: seconds and memory of `tsctl records query`."""
    _run("records", {"records": run_records}, ["records"], rounds, 0, out, json)


@app.command("records-cost")
def records_cost(
    only: Annotated[list[str] | None, only_option(RECORDS_COSTS)] = None,
    rounds: Rounds = 6,
    seconds: Seconds = 4,
    out: Out = None,
    json: Json = False,
) -> None:
    """What metrics and records together take of the requests/s of a linear layer, on two engines (needs wrk)."""
    _run("records-cost", RECORDS_COSTS, _chosen(only, RECORDS_COSTS), rounds, seconds, out, json)


@app.command()
def handlers(
    only: Annotated[list[str] | None, only_option(HANDLERS)] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the handlers in one run, against stock TorchServe, FastAPI and bare loops (needs wrk)."""
    _run("handlers", HANDLERS, _chosen(only, HANDLERS), rounds, seconds, out, json)


@app.command()
def gateway(
    only: Annotated[list[str] | None, only_option(GATEWAY)] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """All figures of the gateway in one run, on nodes and a gateway of its own (needs wrk)."""
    _run("gateway", GATEWAY, _chosen(only, GATEWAY), rounds, seconds, out, json)


@app.command()
def engines(
    only: Annotated[list[str] | None, only_option([*ENGINES, MOVES])] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="An engine or a peer, such as uvicorn or LitServe; repeatable.")
    ] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 4,
    out: Out = None,
    json: Json = False,
) -> None:
    """All engines and what users would write instead, for each model; peers are installed where they are missing."""
    workloads = {**engine_workloads(contender), MOVES: run_moves}
    _run("engines", workloads, _chosen(only, workloads), rounds, seconds, out, json)


@app.command()
def oip(json: Json = False) -> None:
    """What the gateway, Triton and MLServer answer over the Open Inference Protocol, as docs/oip.md has it."""
    from benchmarks.protocol.run import compare
    from benchmarks.protocol.table import markdown

    answers = compare(find_project(), Progress())
    if json:
        print_json(answers)
    else:
        typer.echo(markdown(answers))


@app.command()
def rollout(
    only: Annotated[list[str] | None, only_option(SIMULATIONS)] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated rollouts of each kind.")] = RUNS,
    out: Out = None,
    json: Json = False,
) -> None:
    """False rollbacks, and how soon faults are found, simulated with fixed seeds."""
    _run("rollout", simulations(runs), _chosen(only, SIMULATIONS), 1, 0, out, json)


@app.command()
def shadow(
    only: Annotated[list[str] | None, only_option(SHADOWS)] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated comparisons of each kind.")] = RUNS,
    out: Out = None,
    json: Json = False,
) -> None:
    """False verdicts on shadows, and pairs until a worse one is found, simulated with fixed seeds."""
    _run("shadow", shadow_simulations(runs), _chosen(only, SHADOWS), 1, 0, out, json)


@app.command()
def drift(
    only: Annotated[list[str] | None, only_option(DRIFTS)] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated detectors of each kind.")] = RUNS,
    out: Out = None,
    json: Json = False,
) -> None:
    """Items between false drift alarms, and until a change is found, simulated with fixed seeds."""
    _run("drift", drift_simulations(runs), _chosen(only, DRIFTS), 1, 0, out, json)


@app.command()
def gameday(
    only: Annotated[list[str] | None, only_option([*CANARIES, *TEXT_CANARIES, *DRIFT_CASES])] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Release versions that are bad on purpose, and an identical one, and send requests that drift; exit code 6 for a
    wrong verdict or alarm."""
    kept = find_project().state / "bench" / "gameday"
    chosen = _chosen(only, [*CANARIES, *TEXT_CANARIES, *DRIFT_CASES])
    workloads = {
        **gameday_run.workloads(chosen, kept),
        **gameday_texts.workloads(chosen, kept),
        **gameday_drift.workloads(chosen),
    }  # fmt: skip
    parts = (("gameday", CANARIES), ("texts", TEXT_CANARIES), ("drift", DRIFT_CASES))
    keys = [key for key, known in parts if set(known) & set(chosen)]

    def show(results: Sequence[Result]) -> None:
        for columns, rows in (
            (gameday_run.COLUMNS, gameday_run.rows(results)),
            (gameday_drift.COLUMNS, gameday_drift.rows(results)),
        ):
            if rows:
                print_table(columns, rows)
                typer.echo()
        _show(results)

    results = _run("gameday", workloads, keys, 1, 0, out, json, show)
    wrong = gameday_run.wrong_verdicts(gameday_run.releases_of(results))
    if wrong := [*wrong, *gameday_drift.wrong(gameday_drift.found_in(results))]:
        raise AnalysisError("; ".join(wrong), f"The journals are in {kept}.")


@app.command()
def tune(
    only: Annotated[list[str] | None, only_option(TUNED)] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Simulated searches of each model.")] = SEEDS,
    offline: Annotated[
        bool, typer.Option("--offline", help="Search the stored grids only, and measure nothing.")
    ] = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """How close few trials of `tsctl tune` come to the best of a grid; each run adds a pass to its table."""
    _run("tune", tune_workloads(seeds, offline), _chosen(only, TUNED), 1, 0, out, json)


@app.command("crash-tests")
def crash_tests(
    only: Annotated[list[str] | None, only_option(CRASH_CASES)] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(help=f"What operators share, one of {', '.join(PLACES)}; repeatable. By default none."),
    ] = None,
) -> None:
    """Kill rollouts with SIGKILL at every fault point, and resume them; exit code 1 unless all converge.

    With a place, another operator resumes, who has a project of its own.
    """
    cases = [CRASH_CASES[name] for name in _chosen(only, CRASH_CASES)]
    places = _chosen(place, PLACES) if place else [NOWHERE]
    results = crash_run.run(find_project(), cases, Progress(), places)
    print_table(crash_run.COLUMNS, [crash_run.cells(result) for result in results])
    wrong = sum(bool(result.violations) for result in results)
    typer.echo(f"{len(results)} kills, {len(results) - wrong} converged")
    if wrong or not results:
        raise typer.Exit(1)


@app.command()
def text(
    only: Annotated[list[str] | None, only_option(TEXT)] = None,
    rounds: Rounds = 3,
    seconds: Seconds = 8,
    out: Out = None,
    json: Json = False,
) -> None:
    """A language model: users at once against naive serving, tokens/s of backends, servers and gateway, streams that
    break."""

    def show(results: Sequence[Result]) -> None:
        print_table(text_table.COLUMNS, text_table.rows(results))
        typer.echo()
        _show(results)

    _run("text", TEXT, _chosen(only, TEXT), rounds, seconds, out, json, show)


@app.command()
def growth(
    only: Annotated[list[str] | None, only_option(AXES)] = None,
    rounds: Rounds = 2,
    seconds: Seconds = 2,
    draw: Annotated[
        list[Path] | None,
        typer.Option(help="Measure nothing: draw the axes in this file for docs/; repeatable."),
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """What a request, memory and changes cost with more and more nodes, connections, versions, batches and keys (needs
    wrk, and root for the nodes)."""
    if draw:
        for path in growth_page.write(CHECKOUT / "docs", growth_page.read(*draw)):
            typer.echo(f"written: {path.relative_to(CHECKOUT)}")
        return

    def show(results: Sequence[Result]) -> None:
        grown = growths_of({"workloads": [result.as_json() for result in results]})
        for each in grown:
            typer.echo(f"{each.key}: {each.title}")
            print_table(growth_table.point_columns(each), growth_table.point_rows(each))
            typer.echo()
        print_table(growth_table.FIT_COLUMNS, growth_table.fit_rows(grown))
        typer.echo()
        _show(results)

    _run("growth", AXES, _chosen(only, AXES), rounds, seconds, out, json, show)


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
    show: Callable[[Sequence[Result]], None] | None = None,
) -> list[Result]:
    """Measures, prints tables or JSON, and writes the JSON file.

    Raises:
        NodeError: a workload failed.
    """
    project, deployment = open_deployment()
    path = out or project.state / "bench" / f"{name}.json"
    job = run.Job(project, deployment, rounds, seconds, Progress())
    results, document = run.run_workloads(workloads, keys, job, path)
    if json:
        print_json(document)
    else:
        (show or _show)(results)
        typer.echo(f"written to {project.relative(path)}")
    if document["failed"]:
        raise NodeError("; ".join(f"workload {key}: {reason}" for key, reason in document["failed"].items()))
    return results


def _show(results: Sequence[Result]) -> None:
    if rows := run.target_rows(results):
        print_table(run.TARGET_COLUMNS, rows)
        typer.echo()
    print_table(run.FIGURE_COLUMNS, run.figure_rows(results))
    for note in run.notes(results):
        typer.echo(note)


if __name__ == "__main__":
    run_app(app, "python -m benchmarks")
