"""`tsctl records`: the prediction records of the nodes on this machine, or of a shared folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.options import Json
from tsctl.cli.output import plural, print_rows
from tsctl.errors import SpecError
from tsctl.nodes.engines import open_node, open_nodes
from tsctl.records import compact as compacting
from tsctl.records.database import Place, query
from tsctl.records.export import export as write_export
from tsctl.records.here import places_of

app = typer.Typer(rich_markup_mode=None)

Node = Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml; all on this machine if left out.")]
Source = Annotated[
    list[str] | None,
    typer.Option("--from", help="Folder or fsspec address with records, in place of the nodes'; may be repeated."),
]
ModelName = Annotated[str | None, typer.Argument(metavar="[MODEL]")]


@app.command()
def tail(
    model: ModelName = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=10_000, help="How many records.")] = 20,
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Print the last records, the newest below."""
    columns, rows = query(
        places(node, source),
        "SELECT time, request_id, model, version, track, client, status, label, score, cache, batch_ms FROM records"
        " WHERE $1 IS NULL OR model = $1 ORDER BY time DESC LIMIT $2",
        [model, lines],
    )
    _print(columns, rows[::-1], as_json)


@app.command()
def stats(model: ModelName = None, node: Node = None, source: Source = None, as_json: Json = False) -> None:
    """Count records by model, version and track, with their errors and times."""
    columns, rows = query(
        places(node, source),
        "SELECT model, version, track, count(*) AS records, min(time) AS first, max(time) AS last,"
        " count(DISTINCT client) AS clients, round(avg((status >= 500)::INT), 5) AS errors,"
        " round(avg((cache = 'hit')::INT), 5) AS hits, round(avg(score), 6) AS mean_score,"
        " round(approx_quantile(batch_ms, 0.5), 3) AS p50_ms, round(approx_quantile(batch_ms, 0.99), 3) AS p99_ms"
        " FROM records WHERE $1 IS NULL OR model = $1 GROUP BY ALL ORDER BY ALL",
        [model],
    )
    _print(columns, rows, as_json)


@app.command("query")
def run_query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over the tables records, inputs and repeats.")],
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Run one SELECT of DuckDB's SQL over all records."""
    _print(*query(places(node, source), sql), as_json)


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="File or fsspec address that ends with .parquet, .csv or .jsonl.")],
    sql: Annotated[str, typer.Option("--query", help="One SELECT; all records if left out.")] = "SELECT * FROM records",
    node: Node = None,
    source: Source = None,
) -> None:
    """Write records to a file, or to a shared folder or object store."""
    rows = write_export(places(node, source), sql, to)
    typer.echo(f"{plural(rows, 'row')} in {to}")


@app.command()
def compact(
    node: Node = None,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="Seconds after which to do it again, until Ctrl-C.")
    ] = None,
) -> None:
    """Turn closed segments into Parquet, merge small files, and delete what has expired."""
    while True:
        for place in places(node, None):
            done = compacting.compact(Path(place.address))
            typer.echo(
                f"{place.name}: {plural(done.segments, 'segment')} into {plural(done.files, 'file')},"
                f" {plural(done.expired, 'file')} expired"
            )
        if every is None:
            return
        time.sleep(every)


@app.command()
def purge(
    client: Annotated[str, typer.Option("--client", help="Name of the client's key at the gateway.")],
    node: Node = None,
) -> None:
    """Remove all that nodes on this machine recorded of a client until now; exports elsewhere stay."""
    for place in places(node, None):
        typer.echo(f"{place.name}: waiting until open segments are closed", err=True)
        removed = compacting.purge(Path(place.address), client)
        shown = ", ".join(f"{count} {kind}" for kind, count in removed.items()) or "nothing recorded"
        typer.echo(f"{place.name}: removed {shown}")


def places(node: str | None, sources: list[str] | None) -> list[Place]:
    """Where to read: the given addresses, or the folders of the nodes on this machine.

    Raises:
        SpecError: both were given, or a folder is not there.
        NodeError: no node is on this machine.
    """
    if sources:
        if node is not None:
            raise SpecError("--from and --node contradict each other", "Give one of the two.")
        found = [Place(address, address) for address in sources]
        missing = [place.address for place in found if not place.is_remote and not Path(place.address).is_dir()]
        if missing:
            raise SpecError(f"--from {missing[0]}: no such folder")
        return [place if place.is_remote else Place(place.name, str(Path(place.address).resolve())) for place in found]
    project, deployment = open_deployment()
    nodes = open_nodes(project, deployment) if node is None else [open_node(project, *deployment.node(node))]
    return places_of(nodes)


def _print(columns: list[str], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    plain = (int, float, str, bool, list, dict, type(None))
    shown = [[cell if isinstance(cell, plain) else str(cell) for cell in row] for row in rows]
    print_rows(columns, shown, as_json)
