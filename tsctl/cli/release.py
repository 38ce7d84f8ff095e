"""`tsctl plan` and `tsctl apply`: deployment.yaml against what nodes and Envoy do, shown and made equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment
from tsctl.cli.models import Json
from tsctl.cli.output import plural, print_json

if TYPE_CHECKING:
    from tsctl.release.changes import Plan
    from tsctl.release.observe import Owners
    from tsctl.release.outcome import Applied, Failure

#: The outcome of `tsctl plan` where something would change.
WOULD_CHANGE = 12
_STYLES = {"+": "green", "~": "yellow", "-": "red", "?": "cyan", "x": "bold red"}

Prune = Annotated[
    bool, typer.Option("--prune", help="Retire versions that deployment.yaml does not name; never one with weight.")
]
PruneModels = Annotated[
    bool, typer.Option("--prune-models", help="As --prune, and models that it does not name lose their routes first.")
]


def plan(json: Json = False, prune: Prune = False, prune_models: PruneModels = False) -> int:
    """Show what 'tsctl apply' would do; exit code 12 if anything, 0 if nothing."""
    from tsctl.release.observe import open_owners
    from tsctl.release.outcome import not_covered
    from tsctl.release.words import plan_json

    made = _planned(open_owners(*open_deployment()), prune, prune_models)
    if json:
        print_json(plan_json(made))
    else:
        _print(made)
    if error := not_covered(made):
        raise error
    return WOULD_CHANGE if made.changes else 0


def apply(json: Json = False, prune: Prune = False, prune_models: PruneModels = False) -> None:
    """Make nodes and gateway do what deployment.yaml says, and nothing where they do; safe to run again.

    A node that does not answer is told, with exit code 4, and catches up when this is run again.
    """
    from tsctl.errors import ConflictError
    from tsctl.progress import Progress
    from tsctl.release.apply import apply as make
    from tsctl.release.apply import applying, tell_gateway
    from tsctl.release.observe import open_owners
    from tsctl.release.outcome import failed, not_covered

    owners = open_owners(*open_deployment())
    with applying(owners.project):
        before = _planned(owners, prune, prune_models, is_remembered=True)
        if not json:
            _print(before)
        if not before.changes or before.refusals:
            _print_applied(json, before, None, before)
            if error := not_covered(before):
                raise error
            return
        outcome = make(owners, before, Progress())
        error = failed(outcome)
        if error is None:
            tell_gateway(owners)
        after = _planned(owners, prune, prune_models, is_remembered=True)
    _print_applied(json, before, outcome, after)
    if error := error or not_covered(after):
        raise error
    if after.changes:
        raise ConflictError(
            "all changes were made, and deployment.yaml and nodes differ again: somebody else changes them",
            "See 'tsctl plan', and run this again.",
        )


def _planned(owners: Owners, prune: bool, prune_models: bool, is_remembered: bool = False) -> Plan:
    from tsctl.release.apply import remember_served
    from tsctl.release.desired import desired_state
    from tsctl.release.observe import actual_state
    from tsctl.release.plan import make_plan

    desired, actual = desired_state(owners.project, owners.deployment), actual_state(owners)
    if is_remembered:
        remember_served(owners.project, actual)
    return make_plan(desired, actual, prune, prune_models)


def _print(shown: Plan) -> None:
    """The plan, with colours on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from tsctl.release.words import aligned, lines_of, summary

    console = Console(highlight=False, soft_wrap=True)
    lines = lines_of(shown)
    model = None
    for line, text in zip(lines, aligned(lines), strict=True):
        if line.model != model:
            console.print(Text(("" if model is None else "\n") + line.model, style="bold"))
            model = line.model
        console.print(Text(f"  {text}", style=_STYLES[line.sign]))
    for one in shown.away:
        console.print(Text(f"! {one.place}: {one.reason}", style="bold red"))
    console.print(("\n" if lines or shown.away else "") + summary(shown), markup=False)


def _print_applied(is_json: bool, before: Plan, outcome: Applied | None, after: Plan) -> None:
    from tsctl.release.words import change_json, plan_json, summary

    if is_json:
        done = outcome.done if outcome else []
        print_json(
            {
                "plan": plan_json(before),
                "done": [change_json(change) for change in done],
                "failures": [_failure_json(one) for one in outcome.failures] if outcome else [],
                "left_out": [change_json(change) for change in outcome.left_out] if outcome else [],
                "left": plan_json(after),
            }
        )
    elif outcome is not None:
        typer.echo(f"{plural(len(outcome.done), 'change')} made; now {summary(after)}")


def _failure_json(failure: Failure) -> dict[str, object]:
    change = failure.change
    return {
        "kind": change.kind,
        "model": change.model,
        "version": change.version,
        "place": failure.place,
        "reason": failure.error.message,
    }
