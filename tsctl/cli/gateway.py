"""`tsctl gateway`: the proxy between clients and nodes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tsctl.cli.context import open_gateway_here
from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_json, print_table
from tsctl.config.weights import percent
from tsctl.errors import GatewayError
from tsctl.gateway.envoy import supervisor
from tsctl.gateway.envoy.process import validate, write_static_files
from tsctl.gateway.start import start_gateway, stop_gateway
from tsctl.gateway.state import GatewayStatus, changing, gateway_status, gateway_trouble, require_live
from tsctl.gateway.sync import sync
from tsctl.host.progress import Progress

app = typer.Typer(rich_markup_mode=None)


@app.command()
def render(json: Json = False) -> None:
    """Write Envoy's files from deployment.yaml and the versions that nodes serve, and have Envoy check them."""
    gateway = open_gateway_here()
    with changing(gateway):
        write_static_files(gateway)
    changes = sync(gateway)
    for change in changes if not json else ():
        typer.echo(change)
    validate(gateway)
    document = {"path": str(gateway.files.folder), "changes": changes}
    print_done(document, [f"Envoy accepts the files in {gateway.project.relative(gateway.files.folder)}"], json)


@app.command()
def start(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay as the supervisor until Ctrl-C or SIGTERM; for service managers.")
    ] = False,
    json: Json = False,
) -> None:
    """Start the gateway, or bring a running one to the versions that the nodes serve."""
    gateway, progress = open_gateway_here(), Progress()
    changes = start_gateway(gateway, progress, with_supervisor=not foreground)
    said = changes or [f"nothing to change: the gateway answers at {gateway.spec.address}"]
    print_done({"address": gateway.spec.address, "changes": changes}, said, json)
    if foreground:
        try:
            supervisor.run(gateway)
        finally:
            stop_gateway(gateway, progress)


@app.command()
def stop(json: Json = False) -> None:
    """Stop the gateway that was started here; requests in flight have five seconds to finish."""
    was_running = stop_gateway(open_gateway_here(), Progress())
    print_done({"was_running": was_running}, [] if was_running else ["the gateway was not running"], json)


@app.command()
def status(json: Json = False) -> None:
    """Show routes, versions, weights and nodes as Envoy sees them.

    Exit code 5 if a route cannot answer, or if Envoy or its supervisor does not run or hangs.
    """
    gateway = open_gateway_here()
    current = gateway_status(gateway)
    if json:  # `keeper` was the supervisor's key before
        print_json({**asdict(current), "keeper": current.supervisor, "is_ready": current.is_ready})
    else:
        _print_status(current)
    if current.problem:
        raise gateway_trouble(current)
    require_live(gateway)
    if not current.is_ready:
        unhealthy = ", ".join(f"{r.model} {r.version}" for r in current.rows if r.track == "stable" and not r.healthy)
        raise GatewayError(f"the gateway is not ready: {unhealthy or 'no model has a route'}")


def _print_status(status: GatewayStatus) -> None:
    pids = f" (pid {status.pid}, supervisor {status.supervisor or 'not running'})" if status.pid else ""
    typer.echo(f"gateway: {status.condition}{pids}, {status.address}")
    if not status.rows:
        return
    typer.echo("")
    rows = [
        (r.model, r.version, r.track, percent(r.weight), f"{r.healthy}/{r.nodes}", r.active, r.why_not)
        for r in status.rows
    ]
    print_table(("model", "version", "track", "weight", "nodes", "in flight", "problem"), rows)
