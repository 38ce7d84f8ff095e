"""`tsctl gateway`: the proxy between clients and nodes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.gateway.start import GatewayStatus
    from tsctl.gateway.state import Gateway

app = typer.Typer(help="Render, start, stop and show the gateway of this machine.", no_args_is_help=True)


def opened() -> Gateway:
    """The gateway of the project that the command stands in."""
    from tsctl.gateway.state import open_gateway

    return open_gateway(*open_deployment())


@app.command()
def render() -> None:
    """Write Envoy's files from deployment.yaml and what the nodes serve, and have Envoy check them."""
    from tsctl.gateway.change import sync
    from tsctl.gateway.envoy.process import validate, write_static_files
    from tsctl.gateway.state import changing

    gateway = opened()
    with changing(gateway):
        write_static_files(gateway)
    for change in sync(gateway):
        typer.echo(change)
    validate(gateway)
    typer.echo(f"Envoy takes what is written to {gateway.project.relative(gateway.places.folder)}")


@app.command()
def start(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay as the keeper, until Ctrl-C or SIGTERM; for service managers.")
    ] = False,
) -> None:
    """Start the gateway, or bring a running one to what the nodes serve."""
    from tsctl.gateway.envoy import supervisor as keeper
    from tsctl.gateway.start import start_gateway, stop_gateway
    from tsctl.host.progress import Progress

    gateway, progress = opened(), Progress()
    changes = start_gateway(gateway, progress, with_keeper=not foreground)
    for change in changes:
        typer.echo(change)
    if not changes:
        typer.echo(f"nothing to change: the gateway answers at {gateway.spec.address}")
    if foreground:
        try:
            keeper.run(gateway)
        finally:
            stop_gateway(gateway, progress)


@app.command()
def stop() -> None:
    """Stop the gateway that was started here; what it has in hand has five seconds to end."""
    from tsctl.gateway.start import stop_gateway
    from tsctl.host.progress import Progress

    if not stop_gateway(opened(), Progress()):
        typer.echo("the gateway was not running")


@app.command()
def status(json: Json = False) -> None:
    """Routes, versions, weights and nodes as Envoy sees them; exit code 5 if a route cannot answer."""
    from tsctl.errors import GatewayError
    from tsctl.gateway.start import gateway_status

    found = gateway_status(opened())
    if json:
        print_json({**asdict(found), "is_ready": found.is_ready})
    else:
        _print_status(found)
    if not found.is_live:
        raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")
    if not found.is_ready:
        silent = ", ".join(f"{r.model} {r.version}" for r in found.rows if r.track == "stable" and not r.healthy)
        raise GatewayError(f"the gateway is not ready: {silent or 'no model has a route'}")


def _print_status(found: GatewayStatus) -> None:
    from tsctl.config.weights import percent

    condition = "ready" if found.is_ready else "not ready" if found.is_live else "not running"
    pids = f" (pid {found.pid}, keeper {found.keeper or 'not running'})" if found.pid else ""
    typer.echo(f"gateway: {condition}{pids}, {found.address}")
    if not found.rows:
        return
    typer.echo("")
    rows = [
        (r.model, r.version, r.track, percent(r.weight), f"{r.healthy}/{r.nodes}", r.active, r.why_not)
        for r in found.rows
    ]
    print_table(("model", "version", "track", "weight", "nodes", "active", "trouble"), rows)
