"""`tsctl weights`: the share of a model's requests for each version."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tsctl.cli.context import absent_json, open_deployment, say_absent
from tsctl.cli.options import Json, Model
from tsctl.cli.output import print_done, print_json, print_table
from tsctl.config.weights import parse_weights, percent
from tsctl.gateway.backend import gateway_of, open_backend
from tsctl.gateway.state import require_route
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.rollout.run.journal_files import require_none

weights = typer.Typer(rich_markup_mode=None)


def route_json(route: Traffic) -> dict[str, Any]:
    """A model's route for machines; weights and the shadow's share are hundredths of a percent."""
    return {**asdict(route), "stable": route.stable}


@weights.command("set")
def set_weights(
    model: Model,
    shares: Annotated[list[str], typer.Argument(metavar="VERSION=PERCENT...", help="They sum to 100%.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also while a rollout of the model runs; the rollout then holds.")
    ] = False,
    json: Json = False,
) -> None:
    """Set all weights of a model at once, and wait until the gateway serves them."""
    parsed, (project, deployment) = parse_weights(shares), open_deployment()
    backend = open_backend(project, deployment)
    if not force:
        require_none(project, model)
    traffic, gateway = backend.set_weights(model, parsed), gateway_of(backend)
    print_done({**route_json(traffic), **absent_json(gateway)}, [f"{model}: {weights_text(traffic.weights)}"], json)
    say_absent(gateway)


@weights.command("show")
def show(model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None, json: Json = False) -> None:
    """Show the weights in force; where the gateway does not run, those that it will start with."""
    backend = open_backend(*open_deployment())
    traffic = backend.traffic()
    if not backend.is_live():
        typer.echo("the gateway does not run; it will start with these weights", err=True)
    shown = list(traffic.values()) if model is None else [require_route(traffic, model)]
    if json:
        return print_json([route_json(route) for route in shown])
    rows = []
    for route in shown:
        for version in route.versions:
            copies = percent(route.shadow.share) if route.shadow and route.shadow.version == version else ""
            rows.append((route.model, version, route.track(version), percent(route.weights.get(version, 0)), copies))
    print_table(("model", "version", "track", "weight", "shadow"), rows)
    if not rows:
        typer.echo("no model has a route yet; it gets one when a node serves its default version of deployment.yaml")
