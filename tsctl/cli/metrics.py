"""`tsctl metrics`: the metrics of the workers of the node on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest

from tsctl.cli.context import open_one_node
from tsctl.cli.options import NodeOption
from tsctl.errors import NodeError
from tsctl.monitoring.exporter import parse_listen, serve_until_signalled, url_of
from tsctl.monitoring.worker_files import WorkerFiles, registry_of
from tsctl.nodes.node import Node

app = typer.Typer(rich_markup_mode=None)


@app.command()
def serve(
    node: NodeOption = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:9464",
) -> None:
    """Serve the metrics of all workers since the node's start at /metrics, until Ctrl-C or SIGTERM."""
    opened, registry = _open_metrics(node)
    host, port = parse_listen(listen)
    serve_until_signalled(
        host, port, registry, lambda server: typer.echo(f"metrics of node {opened.name} at {url_of(server)}")
    )


@app.command()
def show(node: NodeOption = None) -> None:
    """Print the metrics that `tsctl metrics serve` exports."""
    opened, registry = _open_metrics(node)
    if not opened.metrics_folder.is_dir():
        raise NodeError(f"node {opened.name} was never started here: no {opened.metrics_folder}", "Run 'tsctl up'.")
    typer.echo(generate_latest(registry).decode(), nl=False)


def _open_metrics(name: str | None) -> tuple[Node, CollectorRegistry]:
    """The node of that name, or the only one, and the metrics of its workers.

    Raises:
        NodeError: it runs on another machine, or its metrics cannot be read.
    """
    _, _, opened = open_one_node(name)
    if not opened.is_here:
        raise NodeError(
            f"node {opened.name} is on {opened.spec.host}, and its workers write their metrics there",
            "Run this on that machine.",
        )
    files = WorkerFiles(opened.metrics_folder, lambda text: typer.echo(f"warning: {text}", err=True))
    files.collect()  # an unreadable folder is an error now, and not at the first scrape
    return opened, registry_of(files)
