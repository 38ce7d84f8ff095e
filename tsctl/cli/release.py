"""`tsctl plan` and `tsctl apply`: deployment.yaml against what nodes and Envoy do, shown and made equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import plural, print_json

if TYPE_CHECKING:
    from tsctl.deploy.changes import Plan

#: The outcome of `tsctl plan` where something would change.
WOULD_CHANGE = 12
_STYLES = {"+": "green", "~": "yellow", "-": "red", "?": "cyan", "x": "bold red"}

PruneVersions = Annotated[
    bool, typer.Option("--prune", help="Retire versions that deployment.yaml does not name; never one with weight.")
]
PruneModels = Annotated[
    bool, typer.Option("--prune-models", help="As --prune, and models that it does not name lose their routes first.")
]


def plan(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> int:
    """Show what 'tsctl apply' would do; exit code 12 if anything, 0 if nothing."""
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.outcome import not_covered
    from tsctl.deploy.reconcile import Prune, plan_now
    from tsctl.views.plan import plan_json

    made = plan_now(open_owners(*open_deployment()), Prune(prune or prune_models, prune_models))
    if json:
        print_json(plan_json(made))
    else:
        _print(made)
    if error := not_covered(made):
        raise error
    return WOULD_CHANGE if made.changes else 0


def apply(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> None:
    """Make nodes and gateway do what deployment.yaml says, and nothing where they do; safe to run again.

    A node that does not answer is told, with exit code 4, and catches up when this is run again.
    """
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.reconcile import Prune, reconcile
    from tsctl.host.progress import Progress
    from tsctl.views.plan import applied_json, summary

    ended = reconcile(
        open_owners(*open_deployment()),
        Prune(prune or prune_models, prune_models),
        Progress(),
        _print_nothing if json else _print,
    )
    if json:
        print_json(applied_json(ended.before, ended.applied, ended.after))
    elif ended.before.changes:
        made = sum(len(change.steps) for change in ended.applied.done)
        typer.echo(f"{plural(made, 'change')} made; now {summary(ended.after)}")
    if error := ended.error:
        raise error


def _print_nothing(shown: Plan) -> None:
    """The plan is a part of the JSON at the end."""


def _print(shown: Plan) -> None:
    """The plan, with colours on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from tsctl.views.plan import aligned, heading, lines_of, summary

    console = Console(highlight=False, soft_wrap=True)
    lines = lines_of(shown)
    model = None
    for line, text in zip(lines, aligned(lines), strict=True):
        if line.model != model:
            console.print(Text(("" if model is None else "\n") + heading(shown, line.model), style="bold"))
            model = line.model
        console.print(Text(f"  {text}", style=_STYLES[line.sign]))
    for one in shown.away:
        console.print(Text(f"! {one.place}: {one.reason}", style="bold red"))
    console.print(("\n" if lines or shown.away else "") + summary(shown), markup=False)
