"""`tsctl bench`: measurements, each compared inside its own run."""

from __future__ import annotations

from typing import Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import print_json, print_table

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
    from tsctl.progress import Progress

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
    from tsctl.progress import Progress
    from tsctl.project import find_project

    rows = measure(find_project(), rounds, seconds, Progress())
    if json:
        print_json([row.as_json() for row in rows])
        return
    columns = ("way", "requests/s", "p50 ms", "p99 ms", "failed", "times stock")
    print_table(columns, [(r.way, r.requests_s, r.p50_ms, r.p99_ms, r.failed, r.times_stock) for r in rows])
