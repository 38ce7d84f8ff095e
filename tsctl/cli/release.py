"""`tsctl plan` and `tsctl apply`: show how nodes and Envoy differ from deployment.yaml, and make them equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import plural, print_json

if TYPE_CHECKING:
    from tsctl.deploy.changes import Plan

#: The exit code of `tsctl plan` where something would change.
WOULD_CHANGE = 12
_STYLES = {"+": "green", "~": "yellow", "-": "red", "?": "cyan", "x": "bold red"}

PruneVersions = Annotated[
    bool, typer.Option("--prune", help="Retire versions that deployment.yaml does not name; never one with weight.")
]
PruneModels = Annotated[
    bool, typer.Option("--prune-models", help="The same, and remove the routes of models that it does not name first.")
]


def plan(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> int:
    """Show what 'tsctl apply' would change; exit code 12 if anything, 0 if nothing."""
    from tsctl.deploy.changes import PlanOptions
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.reconcile import coverage_error, plan_now
    from tsctl.views.plan import plan_json

    planned = plan_now(open_owners(*open_deployment()), PlanOptions(prune, prune_models))
    if json:
        print_json(plan_json(planned))
    else:
        _print(planned)
    if error := coverage_error(planned):
        raise error
    return WOULD_CHANGE if planned.changes else 0


def apply(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> None:
    """Make nodes and gateway do what deployment.yaml says; safe to run again, because only differences are changed.

    If a node does not answer, the others are changed and the exit code is 4; run this again when it is back.
    """
    from tsctl.deploy.changes import PlanOptions, places
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.reconcile import reconcile
    from tsctl.host.progress import Progress
    from tsctl.views.plan import applied_json, summary

    owners = open_owners(*open_deployment())
    options = PlanOptions(prune, prune_models)
    result = reconcile(owners, options, Progress(), lambda planned: None if json else _print(planned))
    if json:
        print_json(applied_json(result.before, result.applied, result.after))
    elif result.before.changes:
        count = sum(len(places(change)) for change in result.applied.done)
        typer.echo(f"{plural(count, 'change')} made; now {summary(result.after)}")
    if error := result.error:
        raise error


def _print(planned: Plan) -> None:
    """Print the plan, with colours on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from tsctl.views.plan import aligned, heading, lines_of, summary

    console = Console(highlight=False, soft_wrap=True)
    lines = lines_of(planned)
    model = None
    for line, text in zip(lines, aligned(lines), strict=True):
        if line.model != model:
            console.print(Text(("" if model is None else "\n") + heading(planned, line.model), style="bold"))
            model = line.model
        console.print(Text(f"  {text}", style=_STYLES[line.sign]))
    for unavailable in planned.unavailable:
        console.print(Text(f"! {unavailable.place}: {unavailable.reason}", style="bold red"))
    console.print(("\n" if lines or planned.unavailable else "") + summary(planned), markup=False)
