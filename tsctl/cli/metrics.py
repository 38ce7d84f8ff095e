"""`tsctl metrics`: metrics of this machine: of the workers of its nodes, and the state of what runs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest

from tsctl.cli.context import open_deployment, open_one_node
from tsctl.cli.options import Json
from tsctl.cli.output import print_json, print_table
from tsctl.errors import NodeError, SpecError
from tsctl.monitoring.exporter import parse_listen, serve_until_signalled, url_of
from tsctl.monitoring.worker_files import NodesFiles, WorkerFiles, registry_of
from tsctl.nodes.node import Node

app = typer.Typer(rich_markup_mode=None)

NodesHere = Annotated[
    str | None, typer.Option("--node", help="Node of deployment.yaml; all of this machine if left out.")
]


@app.command()
def serve(
    node: NodesHere = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", help="Address to listen on; port 0 takes a free one. By default as deployment.yaml says."
        ),
    ] = None,
) -> None:
    """Serve metrics of this machine until Ctrl-C or SIGTERM.

    /metrics has those of all workers since their node's start, /state the state of nodes, gateway and rollouts.
    """
    import logging

    from tsctl.monitoring.state import MachineState

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    project, deployment = open_deployment()
    nodes = nodes_here(node)
    host, port = parse_listen(listen or deployment.monitoring.exporter.removeprefix("http://"))
    names = ", ".join(opened.name for opened in nodes)
    whose = f"node{'s' * (len(nodes) > 1)} {names}" if nodes else "the gateway"
    workers, state = _metrics_of(nodes), registry_of(MachineState(project))
    serve_until_signalled(
        host, port, workers, state, lambda server: typer.echo(f"metrics of {whose} at {url_of(server)}")
    )


@app.command()
def show(
    node: NodesHere = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print every metric in Prometheus' format, as 'tsctl metrics serve' does.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what each version answered since its node's start: requests, outcomes, times, batches, cache.

    Only what clients asked counts, and not warm-up, golden samples or health checks.
    """
    from tsctl.views.metrics import COLUMNS, cells, version_metrics

    if raw and json:
        raise SpecError("--raw and --json contradict each other", "Give one of the two.")
    nodes = nodes_here(node)
    registry = _metrics_of(nodes)
    if not any(opened.metrics_folder.is_dir() for opened in nodes):
        names = ", ".join(f"node {opened.name} was never started here: no {opened.metrics_folder}" for opened in nodes)
        raise NodeError(names or "no node of deployment.yaml is on this machine", "Run 'tsctl up'.")
    if raw:
        return typer.echo(generate_latest(registry).decode(), nl=False)
    rows = version_metrics(registry.collect())
    if json:
        return print_json([asdict(row) for row in rows])
    if not rows:
        return typer.echo("no worker has become ready since the start of its node, or their archives have no metrics")
    print_table(COLUMNS, cells(rows))


def nodes_here(name: str | None) -> list[Node]:
    """The node of that name; without a name, every node of this machine, of which the gateway's may have none.

    Raises:
        NodeError: the named node, or the only one, runs on another machine.
    """
    from tsctl.nodes.engines import open_nodes

    project, deployment = open_deployment()
    if name is None and (len(deployment.nodes) > 1 or deployment.gateway is not None):
        nodes = [opened for opened in open_nodes(project, deployment) if opened.is_here]
        if nodes or deployment.gateway is not None:
            return nodes
    opened = open_one_node(name)[2]
    if not opened.is_here:
        raise NodeError(
            f"node {opened.name} is on {opened.spec.host}, and its workers write their metrics there",
            "Run this on that machine.",
        )
    return [opened]


def _metrics_of(nodes: Sequence[Node]) -> CollectorRegistry:
    """The metrics of the workers of these nodes; raises NodeError where they cannot be read."""
    files = {
        opened.name: WorkerFiles(opened.metrics_folder, lambda text: typer.echo(f"warning: {text}", err=True))
        for opened in nodes
    }
    for of_node in files.values():
        of_node.collect()  # an unreadable folder is an error now, and not at the first scrape
    return registry_of(NodesFiles(files))
