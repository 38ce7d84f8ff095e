"""`tsctl metrics`: the metrics of the workers of the node on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_one_node
from tsctl.cli.node import NodeOption

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tsctl.nodes.torchserve.node import Node

app = typer.Typer(help="Show or export the metrics of the workers of the node on this machine.", no_args_is_help=True)


@app.command()
def serve(
    node: NodeOption = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:9464",
) -> None:
    """Serve the metrics of all workers since the node's start at /metrics, until Ctrl-C or SIGTERM."""
    opened, registry = _open_metrics(node)
    from tsctl.monitoring.exporter import parse_listen, serve_until_signalled, url_of

    host, port = parse_listen(listen)
    serve_until_signalled(
        host, port, registry, lambda server: typer.echo(f"metrics of node {opened.name} at {url_of(server)}")
    )


@app.command()
def show(node: NodeOption = None) -> None:
    """Print the metrics that `tsctl metrics serve` exports."""
    from tsctl.errors import NodeError

    opened, registry = _open_metrics(node)
    if not opened.paths.metrics.is_dir():
        raise NodeError(f"node {opened.name} was never started here: no {opened.paths.metrics}", "Run 'tsctl up'.")
    from prometheus_client import generate_latest

    typer.echo(generate_latest(registry).decode(), nl=False)


def _open_metrics(name: str | None) -> tuple[Node, CollectorRegistry]:
    """The node of that name, or the only one, and the metrics of its workers.

    Raises:
        NodeError: it runs on another machine, its metrics cannot be read, or prometheus_client is not installed.
    """
    from importlib.util import find_spec

    from tsctl.errors import NodeError

    _, _, opened = open_one_node(name)
    if not opened.is_here:
        raise NodeError(
            f"node {opened.name} is on {opened.spec.host}, and its workers write their metrics there",
            "Run this on that machine.",
        )
    if find_spec("prometheus_client") is None:
        raise NodeError(
            "prometheus_client is not installed beside tsctl", "Run 'make setup', or pip install 'tsctl[serve]'."
        )
    from tsctl.monitoring.worker_files import WorkerFiles, registry_of

    files = WorkerFiles(opened.paths.metrics, lambda text: typer.echo(f"warning: {text}", err=True))
    files.collect()  # an unreadable folder is an error now, and not at the first scrape
    return opened, registry_of(files)
