"""`tsctl gateway`: the proxy between clients and nodes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tsctl.addresses import without_secrets
from tsctl.cli.context import open_deployment, open_gateway_here, open_local_gateway
from tsctl.cli.options import Json
from tsctl.cli.output import print_done, print_json, print_table
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project, find_project
from tsctl.config.weights import percent
from tsctl.control.place import PlaceUnreachable, PlaceUnusable
from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.envoy import supervisor
from tsctl.gateway.envoy.process import validate, write_static_files
from tsctl.gateway.shared import follower
from tsctl.gateway.shared.control import describe
from tsctl.gateway.start import start_gateway, stop_gateway
from tsctl.gateway.state import (
    GatewayStatus,
    changing,
    gateway_status,
    gateway_trouble,
    open_here,
    open_named,
    require_live,
)
from tsctl.gateway.sync import sync
from tsctl.host.progress import Progress

app = typer.Typer(rich_markup_mode=None)


@app.command()
def render(json: Json = False) -> None:
    """Write Envoy's files from deployment.yaml and the versions that nodes serve, and have Envoy check them."""
    gateway = open_local_gateway()
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
    """Start the gateway, or bring a running one to the versions that the nodes serve.

    Of several gateways, the one of this machine, as 'tsctl gateway follow' does.
    """
    gateway = open_local_gateway()
    if gateway.name:
        return _follow(find_project(), gateway.name, gateway.deployment.control or "", foreground, json)
    progress = Progress()
    changes = start_gateway(gateway, progress, with_supervisor=not foreground)
    said = changes or [f"nothing to change: the gateway answers at {gateway.spec.address}"]
    print_done({"address": gateway.spec.address, "changes": changes}, said, json)
    if foreground:
        try:
            supervisor.run(gateway)
        finally:
            stop_gateway(gateway, progress)


@app.command()
def publish(json: Json = False) -> None:
    """Publish deployment.yaml and the versions that nodes serve to all gateways, and wait until they have them.

    'tsctl apply' does it as well.
    """
    gateway = open_gateway_here()
    if gateway.shared is None:
        raise SpecError("deployment.yaml has one gateway, which reads its files itself", "See docs/control.md.")
    gateway.shared.mend()
    sync(gateway)
    head, absent = gateway.shared.base, gateway.shared.absent
    document = {"generation": head.number, "absent": absent}
    print_done(document, [f"generation {head.number} is published", *describe(absent)], json)


@app.command()
def follow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of this machine's gateway, as in deployment.yaml.")],
    control: Annotated[
        str | None, typer.Option(help="The place of control; where this folder has no deployment.yaml yet.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay as the supervisor until Ctrl-C or SIGTERM; for service managers.")
    ] = False,
    json: Json = False,
) -> None:
    """Start the gateway of this machine as one of several: it takes what is published to the place of control.

    Its deployment.yaml is the published one from then on.
    """
    if control is None:
        project, deployment = open_deployment()
        control = deployment.control
    else:
        try:
            project = find_project()
        except SpecError:  # an empty folder is enough
            project = Project(Path.cwd())
    if control is None:
        raise SpecError("no place of control", "Give its address: --control ADDRESS, or 'control' in deployment.yaml.")
    _follow(project, name, control, foreground, json)


def _follow(project: Project, name: str, control: str, foreground: bool, json: bool) -> None:
    following, progress = follower.prepare(project, name, control), Progress()
    deployment_here = project.deployment.is_file()
    try:
        following.take_newest()  # before Envoy starts, so that nobody is answered by what was in force long ago
    except (PlaceUnreachable, PlaceUnusable) as error:
        if not (following.in_force.number and deployment_here):
            raise
        typer.echo(f"{error.message}; starting with generation {following.in_force.number}", err=True)
    if refusal := following.refusal:
        raise GatewayError(
            f"gateway {name!r} cannot take what is published: {refusal}",
            "Correct it on the operator's machine: tsctl gateway publish",
        )
    if not following.in_force.number:
        raise GatewayError(
            f"nothing was published in {without_secrets(control)} yet",
            "On the operator's machine: tsctl gateway publish",
        )
    gateway = open_named(project, read_deployment(project.deployment), name)
    following.remember()
    changes = start_gateway(gateway, progress, with_supervisor=not foreground)
    number = following.in_force.number
    said = changes or [f"nothing to change: gateway {name} answers at {gateway.spec.address}"]
    document = {"name": name, "address": gateway.spec.address, "generation": number, "changes": changes}
    print_done(
        document, [*said, f"gateway {name} follows {without_secrets(control)}, from generation {number} on"], json
    )
    if foreground:
        try:
            supervisor.run(gateway)
        finally:
            stop_gateway(gateway, progress)


@app.command()
def stop(json: Json = False) -> None:
    """Stop the gateway that was started here; requests in flight have five seconds to finish."""
    was_running = stop_gateway(open_local_gateway(), Progress())
    print_done({"was_running": was_running}, [] if was_running else ["the gateway was not running"], json)


@app.command()
def status(json: Json = False) -> None:
    """Show routes, versions, weights and nodes as Envoy sees them.

    Exit code 5 if a route cannot answer, or if Envoy or its supervisor does not run or hangs.
    """
    gateway = open_here(*open_deployment())
    current = gateway_status(gateway)
    if json:  # `keeper` was the supervisor's key before
        each = {"gateways": [one.as_json() for one in current.gateways]}
        print_json({**asdict(current), **each, "keeper": current.supervisor, "is_ready": current.is_ready})
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
    for one in status.gateways:
        typer.echo(one.line)
    if not status.rows:
        return
    typer.echo("")
    rows = [
        (r.model, r.version, r.track, percent(r.weight), f"{r.healthy}/{r.nodes}", r.active, r.why_not)
        for r in status.rows
    ]
    print_table(("model", "version", "track", "weight", "nodes", "in flight", "problem"), rows)
