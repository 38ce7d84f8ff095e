"""Renders a plan for people and for machines. Pure.

Lines are grouped by model, with a line for each node. The JSON has the changes in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsctl.deploy.apply import Applied
from tsctl.deploy.changes import (
    GATEWAY,
    Change,
    Plan,
    Refusal,
    Register,
    RemoveRoute,
    Replace,
    Retire,
    Scale,
    SetDefault,
    SetWeights,
    Unmanaged,
    places,
    state_text,
    weights_text,
    workers_text,
)
from tsctl.views.table import Table

REGISTERED, CHANGED, RETIRED, KEPT, REFUSED = "+", "~", "-", "?", "x"
#: The sign before the lines of a kind of change; CHANGED for every other kind.
SIGNS = {"register": REGISTERED, "route": RETIRED, "retire": RETIRED}


@dataclass(frozen=True)
class Effect:
    """One line of a change: a place, and its state before and afterwards."""

    place: str
    before: str
    after: str


@dataclass(frozen=True)
class Line:
    """One line of a plan."""

    model: str  # empty where it is of a node
    sign: str
    cells: tuple[str, str, str, str]  # version, kind, place, description


def lines_of(plan: Plan) -> list[Line]:
    """Every line, models in the order in which the plan first names them."""
    lines = list(_lines(plan))
    order = list(dict.fromkeys(line.model for line in lines))
    return sorted(lines, key=lambda line: order.index(line.model))


def aligned(lines: Sequence[Line]) -> list[str]:
    """The lines' texts, their columns under each other."""
    rows = [(f"{line.sign} {line.cells[0]}", *line.cells[1:]) for line in lines]
    return Table(("",) * 4, rows).lines()[1:]


def heading(plan: Plan, model: str) -> str:
    """The line above a model's lines."""
    return f"{model} (changed since the last apply)" if model in plan.drifted else model


def summary(plan: Plan) -> str:
    """One line: how many changes, and what the plan does not cover."""
    counts = {
        "to register": _count(plan, REGISTERED),
        "to change": _count(plan, CHANGED),
        "to retire": _count(plan, RETIRED),
        "refused": len(plan.refusals),
        "not in deployment.yaml": len(plan.unmanaged),
    }
    parts = [f"{count} {text}" for text, count in counts.items() if count]
    parts += [f"{unavailable.place} is unavailable" for unavailable in plan.unavailable]
    if plan.is_empty:
        parts.insert(0, "nothing to change")
    return ", ".join(parts)


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
        case Register():
            texts = {node: ("nothing", _archive(change)) for node in change.nodes}
        case Replace():
            texts = {
                node: (f"{was.archive}, {state_text(was)}", _archive(change)) for node, was in change.before.items()
            }
        case Scale():
            texts = {node: (state_text(was), workers_text(change.workers)) for node, was in change.before.items()}
        case SetDefault():
            texts = {node: (was or "none", change.version) for node, was in change.before.items()}
        case Retire():
            texts = {node: (f"{was.archive}, {state_text(was)}", "nothing") for node, was in change.before.items()}
        case SetWeights():
            before = weights_text(change.before.weights) if change.before else "no route"
            texts = {GATEWAY: (before, weights_text(change.weights))}
        case RemoveRoute():
            texts = {GATEWAY: (weights_text(change.before.weights), "no route")}
    return [Effect(place, *states) for place, states in texts.items()]


def _archive(change: Register | Replace) -> str:
    return f"{change.archive}, {workers_text(change.workers)}"


def _named(subject: Change | Refusal | Unmanaged) -> dict[str, str | None]:
    return {"model": subject.model, "version": subject.version}


def change_json(change: Change) -> dict[str, Any]:
    """One change for machines; `steps` has a line for each place."""
    settings = {name: value for name, value in vars(change).items() if name in ("archive", "workers", "weights")}
    if isinstance(change, SetWeights):
        settings["weights_before"] = dict(change.before.weights) if change.before else None
    return {"kind": change.kind, **_named(change), **settings, "steps": [asdict(effect) for effect in effects(change)]}


def _lines(plan: Plan) -> Iterator[Line]:
    for change in plan.changes:
        for effect in effects(change):
            text = f"{effect.before} -> {effect.after}"
            yield Line(change.model, _sign(change), (change.version or "", change.kind, effect.place, text))
    for refusal in plan.refusals:
        cells = (refusal.version or "", "refused", ", ".join(refusal.places), refusal.reason)
        yield Line(refusal.model, REFUSED, cells)
    for thing in plan.unmanaged:
        text = f"{thing.description}, not in deployment.yaml ({thing.reason})"
        yield Line(thing.model, KEPT, (thing.version or "", "kept", thing.place, text))


def _sign(change: Change) -> str:
    return SIGNS.get(change.kind, CHANGED)


def _count(plan: Plan, sign: str) -> int:
    return sum(len(places(change)) for change in plan.changes if _sign(change) == sign)
