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
