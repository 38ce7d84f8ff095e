"""`tsctl records`: the prediction records of the nodes on this machine, or of a shared folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.options import Every, Json, repeated
from tsctl.cli.output import json_value, plural, print_done, print_json, print_objects, print_rows
from tsctl.config.project import find_project
from tsctl.errors import AnalysisError, ConflictError, NodeError, SpecError
from tsctl.host.remote import absolute
from tsctl.nodes.engines import open_node, open_nodes
from tsctl.records import compact as compacting
from tsctl.records.database import Place, query, stream
from tsctl.records.export import export as write_export
from tsctl.records.labels import label_files
from tsctl.records.places import labels_folder, places_of, shared_address
from tsctl.records.shared import SharedPlace

app = typer.Typer(rich_markup_mode=None)

#: Rows of a query that its table has: the widths of columns are known only of rows in memory.
MOST_SHOWN = 1000

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
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="One SELECT over the tables records, inputs, repeats and labels.")
    ],
    node: Node = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Run one SELECT of DuckDB's SQL over all records."""
    folder = labels_folder(find_project())
    read = stream(places(node, source), sql, folders=[str(folder)], label_files=label_files(folder))
    with read as (columns, rows):
        if as_json:
            print_objects(columns, ([json_value(cell) for cell in row] for row in rows))
        else:
            _print(columns, list(islice(rows, MOST_SHOWN)), as_json)
            if more := sum(1 for _ in rows):
                typer.echo(
                    f"{plural(more, 'more row')} not shown: see --json, 'tsctl records export --query', or LIMIT",
                    err=True,
                )


@app.command()
def export(
    to: Annotated[str, typer.Option("--to", help="File or fsspec address that ends with .parquet, .csv or .jsonl.")],
    sql: Annotated[str, typer.Option("--query", help="One SELECT; all records if left out.")] = "SELECT * FROM records",
    node: Node = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Write records to a file, or to a shared folder or object store."""
    rows = write_export(places(node, source), sql, to, labels_folder(find_project()))
    print_done({"rows": rows, "to": to}, [f"{plural(rows, 'row')} in {to}"], json)


@app.command()
def compact(
    node: Node = None,
    every: Every = None,
    json: Json = False,
) -> None:
    """Turn closed segments into Parquet, merge small files, and delete what has expired."""
    for _ in repeated(every):
        rows = []
        for place in own_places(node):
            done = compacting.compact(Path(place.address))
            rows.append({"place": place.name, **asdict(done)})
            if not json:
                typer.echo(
                    f"{place.name}: {plural(done.segments, 'segment')} into {plural(done.files, 'file')},"
                    f" {plural(done.expired, 'file')} expired"
                )
        if json:
            print_json(rows)


@app.command()
def push(
    node: Node = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Folder or fsspec address. Default: records.shared of deployment.yaml.")
    ] = None,
    every: Every = None,
    json: Json = False,
) -> None:
    """Move records of nodes on this machine to the place that machines share; what cannot be moved now stays here."""
    project, deployment = open_deployment()
    address = absolute(to, Path.cwd()) if to is not None else shared_address(project, deployment)
    if address is None:
        raise SpecError(
            "no shared place is named", "Write records: {shared: ADDRESS} into deployment.yaml, or give --to."
        )
    for _ in repeated(every):
        rows: list[dict[str, object]] = []
        for place in own_places(node):
            try:
                done = SharedPlace(address).push(place.name, Path(place.address))
                moved = f"{plural(done.files, 'file')} moved ({done.bytes / (1 << 20):.1f} MiB)"
                rows.append({"place": place.name, "to": address, **asdict(done)})
                if not json:
                    typer.echo(f"{place.name}: {moved}, {plural(done.expired, 'file')} expired at {address}")
            except (AnalysisError, ConflictError) as error:
                if every is None:
                    raise
                typer.echo(f"{place.name}: {error.message}; tried again in {every:g} s", err=True)
        if json:
            print_json(rows)


@app.command()
def purge(
    client: Annotated[str, typer.Option("--client", help="Name of the client's key at the gateway.")],
    node: Node = None,
    json: Json = False,
) -> None:
    """Remove all that nodes on this machine recorded of a client until now, and its labels; exports elsewhere stay."""
    project, deployment = open_deployment()
    folder = labels_folder(project)
    removed: list[tuple[str, str | None, Mapping[str, int]]] = []  # place, shared address, and what was there

    def tell(place: str, address: str | None, counts: Mapping[str, int]) -> None:
        removed.append((place, address, counts))
        if not json:
            where, done = f"{place}{f' at {address}' if address else ''}", _counts(counts)
            typer.echo(f"{where}: removed {done}" if done else f"{where}: nothing was recorded of client {client}")

    for place in own_places(node):
        typer.echo(f"{place.name}: waiting until open segments are closed", err=True)
        tell(place.name, None, compacting.purge(Path(place.address), client, folder))
    if node is None and (address := shared_address(project, deployment)) is not None:
        for name, counts in sorted(SharedPlace(address).purge(client, folder).items()):
            tell(name, address, counts)
    if json:
        print_json([{"place": place, "address": at, "removed": dict(counts)} for place, at, counts in removed])
    typer.echo(
        "not removed: files that were exported or captured, the gateway's access log, and what lies on the disks of"
        " nodes on other machines",
        err=True,
    )


def places(node: str | None, sources: list[str] | None) -> list[Place]:
    """Where to read: the given addresses, or the folders of the nodes on this machine and the shared place.

    Args:
        node: this one's folder alone.

    Raises:
        SpecError: both were given, or a folder is not there.
        NodeError: no node is on this machine, and no place is shared.
        AnalysisError: the shared place does not answer.
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
    if node is None and (shared := shared_address(project, deployment)) is not None:
        return places_of(open_nodes(project, deployment), shared)
    return own_places(node)


def own_places(node: str | None) -> list[Place]:
    """The folders of the nodes on this machine, or of the named one.

    Raises:
        NodeError: no such node is on this machine.
    """
    project, deployment = open_deployment()
    nodes = open_nodes(project, deployment) if node is None else [open_node(project, *deployment.node(node))]
    here = places_of(nodes, None)
    if not here:
        raise NodeError("no such node is on this machine, and each writes records where it runs", "Run this there.")
    return here


def _counts(removed: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in removed.items() if count)


def _print(columns: list[str], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    print_rows(columns, [[json_value(cell) for cell in row] for row in rows], as_json)
