"""Renders a plan for people and for machines. Pure.

Lines are grouped by model, with a line for each node. The JSON has the changes in the order in which they are made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from tsctl.deploy import changes
from tsctl.deploy.apply import Applied
from tsctl.deploy.changes import (
    GATEWAY,
    Change,
    Plan,
    Refusal,
    Unmanaged,
    settings_text,
    state_text,
    workers_text,
)
from tsctl.gateway.traffic import weights_text
from tsctl.views.table import Table

#: The sign of a line: its colour, and how the summary counts such lines.
SIGNS = {
    "+": ("green", "to register"),
    "~": ("yellow", "to change"),
    "-": ("red", "to retire"),
    "x": ("bold red", "refused"),
    "?": ("cyan", "not in deployment.yaml"),
}

#: What the JSON says of a change, beside its steps.
SETTINGS = ("archive", "workers", "settings", "weights", "lacks_golden", "lacks_packages", "is_pulled")


@dataclass(frozen=True)
class Effect:
    """One line of a change: a place, and its state before and afterwards."""

    place: str
    before: str
    after: str


def render_plan(plan: Plan) -> Text:
    """Render a plan in colours: its lines by model, the places that do not answer, and the summary."""
    lines = list(_lines(plan))
    texts = Table(("",) * 4, [(f"{sign} {version}", *cells) for _, sign, version, *cells in lines]).lines()[1:]
    models: dict[str, Text] = {}
    for (model, sign, *_), text in zip(lines, texts, strict=True):
        heading = f"{model} (changed since the last apply)" if model in plan.drifted else model
        models.setdefault(model, Text.assemble((heading, "bold"))).append(f"\n  {text}", SIGNS[sign][0])
    parts = [Text("\n\n").join(models.values())] if models else []
    parts += [Text(f"! {unavailable.place}: {unavailable.reason}", "bold red") for unavailable in plan.unavailable]
    if plan.is_unpublished:
        parts.append(Text("~ gateways: deployment.yaml -> as it is now", "yellow"))
    parts += [Text(line, "yellow") for line in (*_unchecked(plan), *_unpacked(plan))]
    return Text("\n").join([*parts, Text(f"\n{summary(plan)}" if parts else summary(plan))])


def _unchecked(plan: Plan) -> Iterator[str]:
    """What is registered though nothing says which of its answers are right, and how to record them."""
    lacking = [
        f"{change.model}:{change.version}"
        for change in plan.changes
        if isinstance(change, changes.Register | changes.Replace) and change.lacks_golden
    ]
    if lacking:
        yield (
            f"\nno golden answers: {', '.join(lacking)}. Put requests into archives/<model>/samples, and then:"
            f" tsctl archive golden {' '.join(lacking)} [--from-node]"
        )


def _unpacked(plan: Plan) -> Iterator[str]:
    """Stock archives that are registered though packages which they ask for are missing."""
    for change in plan.changes:
        if isinstance(change, changes.Register | changes.Replace) and change.lacks_packages:
            yield f"\n{change.model} {change.version}: {change.lacks_packages}"


def summary(plan: Plan) -> str:
    """One line: how many changes, and what the plan does not cover."""
    counts = Counter(sign for _, sign, *_ in _lines(plan))
    parts = ["no node answers"] if plan.is_unknown else ["nothing to change"] if plan.is_empty else []
    parts += [f"{counts[sign]} {text}" for sign, (_, text) in SIGNS.items() if counts[sign]]
    parts += ["deployment.yaml to publish"] if plan.is_unpublished else []
    return ", ".join([*parts, *(f"{unavailable.place} is unavailable" for unavailable in plan.unavailable)])


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan for machines; weights are hundredths of a percent."""
    return {
        "is_empty": plan.is_empty,
        "changes": [change_json(change) for change in plan.changes],
        "refusals": [
            {
                **_named(refusal),
                "places": list(refusal.places),
                "reason": refusal.reason,
                "hint": refusal.hint,
                "exit_code": refusal.error.exit_code,
            }
            for refusal in plan.refusals
        ],
        "unmanaged": [
            {**_named(thing), "place": thing.place, "what": thing.description, "why_kept": thing.reason}
            for thing in plan.unmanaged
        ],
        "drifted": list(plan.drifted),
        "is_unpublished": plan.is_unpublished,
        "away": [asdict(place) for place in plan.unavailable],
    }


def applied_json(before: Plan, applied: Applied, after: Plan) -> dict[str, Any]:
    """A plan, its result, and the plan that is left, for machines."""
    return {
        "plan": plan_json(before),
        "done": [change_json(change) for change in applied.done],
        "failures": [
            {
                "kind": failure.change.kind,
                **_named(failure.change),
                "place": failure.place,
                "reason": failure.error.message,
            }
            for failure in applied.failures
        ],
        "left_out": [change_json(change) for change in applied.left_out],
        "left": plan_json(after),
    }


def effects(change: Change) -> list[Effect]:
    """The places of a change, with their state before and afterwards."""
    match change:
        case changes.Register():
            texts = {node: ("nothing", _archive(change)) for node in change.nodes}
        case changes.Replace():
            texts = {
                node: (f"{was.archive}, {state_text(was)}", _archive(change)) for node, was in change.before.items()
            }
        case changes.Scale():
            texts = {node: (state_text(was), workers_text(change.workers)) for node, was in change.before.items()}
        case changes.Configure():
            texts = {
                node: (settings_text(was.settings, change.settings[node]), settings_text(wanted, was.settings))
                for node, was in change.before.items()
                for wanted in (change.settings[node],)
            }
        case changes.SetDefault():
            texts = {node: (was or "none", change.version) for node, was in change.before.items()}
        case changes.Retire() | changes.Withdraw():
            texts = {node: (f"{was.archive}, {state_text(was)}", "nothing") for node, was in change.before.items()}
        case changes.SetWeights():
            before = weights_text(change.before.shares) if change.before else "no route"
            texts = {GATEWAY: (before, weights_text(change.weights))}
        case changes.RemoveRoute():
            texts = {GATEWAY: (weights_text(change.before.shares), "no route")}
    return [Effect(place, *states) for place, states in texts.items()]


def _archive(change: changes.Register | changes.Replace) -> str:
    pulled = ", pulled from the store" if change.is_pulled else ""
    unchecked = ", no golden answers" if change.lacks_golden else ""
    return f"{change.archive}, {workers_text(change.workers)}{pulled}{unchecked}"


def _named(subject: Change | Refusal | Unmanaged) -> dict[str, str | None]:
    return {"model": subject.model, "version": subject.version}


def change_json(change: Change) -> dict[str, Any]:
    """One change for machines; `steps` has a line for each place."""
    settings = {name: value for name, value in vars(change).items() if name in SETTINGS}
    if isinstance(change, changes.SetWeights):
        settings["weights_before"] = dict(change.before.weights) if change.before else None
    return {"kind": change.kind, **_named(change), **settings, "steps": [asdict(effect) for effect in effects(change)]}


def _lines(plan: Plan) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Model, sign, version, kind, place and description of every line."""
    for change in plan.changes:
        sign = {"register": "+", "route": "-", "withdraw": "-", "retire": "-"}.get(change.kind, "~")
        for effect in effects(change):
            text = f"{effect.before} -> {effect.after}"
            yield change.model, sign, change.version or "", change.kind, effect.place, text
    for refusal in plan.refusals:
        yield refusal.model, "x", refusal.version or "", "refused", ", ".join(refusal.places), refusal.reason
    for thing in plan.unmanaged:
        text = f"{thing.description}, not in deployment.yaml ({thing.reason})"
        yield thing.model, "?", thing.version or "", "kept", thing.place, text
