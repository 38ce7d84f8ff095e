"""`tsctl weights` and `tsctl shadow`: which share of a model's requests each version gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.gateway import opened
from tsctl.cli.models import Json, Model, Version
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.gateway.traffic import Traffic

weights = typer.Typer(help="Set and show the weights of a model's versions.", no_args_is_help=True)
shadow = typer.Typer(help="Send copies of requests to a version whose answers nobody gets.", no_args_is_help=True)


@weights.command("set")
def set_weights(
    model: Model,
    given: Annotated[list[str], typer.Argument(metavar="VERSION=PERCENT...", help="They sum to 100%.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also while a rollout decides on them; it holds then.")
    ] = False,
) -> None:
    """Set all weights of a model at once, and wait until the gateway serves them."""
    from tsctl.config.weights import parse_weights
    from tsctl.gateway import change
    from tsctl.rollout.run.journal import require_none

    parsed, gateway = parse_weights(given), opened()
    if not force:
        require_none(gateway.project, model)
    traffic = change.set_weights(gateway, model, parsed)
    typer.echo(f"{model}: {change.weights_text(traffic)}")


@weights.command("show")
def show(model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None, json: Json = False) -> None:
    """The weights in force, as the gateway serves them; where it does not run, those that it will start with."""
    from tsctl.config.weights import percent
    from tsctl.errors import GatewayError
    from tsctl.gateway.state import traffic_in_force

    gateway = opened()
    routes = {one.model: one for one in traffic_in_force(gateway)}
    if not gateway.admin.is_live():
        typer.echo("the gateway does not run; this is what it starts with", err=True)
    if model is not None and model not in routes:
        raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(routes) or 'none'}.")
    found = [one for one in routes.values() if model in (None, one.model)]
    if json:
        print_json([_as_json(one) for one in found])
        return
    rows = []
    for one in found:
        for version in one.versions:
            copies = percent(one.shadow.share) if one.shadow and one.shadow.version == version else ""
            rows.append((one.model, version, one.track(version), percent(one.weights.get(version, 0)), copies))
    print_table(("model", "version", "track", "weight", "shadow"), rows)
    if not rows:
        typer.echo("no model has a route yet; one gets it when a node serves the default version of deployment.yaml")


@shadow.command("set")
def set_shadow(
    model: Model,
    version: Version,
    share: Annotated[str, typer.Option("--percent", help="Of the model's requests, such as 20 or 0.5.")],
) -> None:
    """Have a share of a model's requests copied to a version."""
    from tsctl.config.weights import parse_share, percent
    from tsctl.gateway import change

    parsed = parse_share(share)
    traffic = change.set_shadow(opened(), model, version, parsed)
    if traffic.shadow is None:
        typer.echo(f"{model}: no shadow")
    else:
        typer.echo(f"{model}: {percent(traffic.shadow.share)} is copied to {traffic.shadow.version}")


@shadow.command("clear")
def clear(model: Model) -> None:
    """Copy nothing any more."""
    from tsctl.gateway import change

    change.set_shadow(opened(), model, None, 0)
    typer.echo(f"{model}: no shadow")


def _as_json(traffic: Traffic) -> dict[str, object]:
    shadow_ = traffic.shadow
    return {
        "model": traffic.model,
        "weights": dict(traffic.weights),  # hundredths of a percent
        "stable": traffic.stable,
        "canary": traffic.canary,
        "shadow": {"version": shadow_.version, "share": shadow_.share} if shadow_ else None,
    }
