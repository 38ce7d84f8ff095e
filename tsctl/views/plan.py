"""Renders a plan for people and for machines. Pure.

Lines are grouped by model, with a line for each node. The JSON has the changes in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsctl.deploy.changes import Change, Plan, Register, Replace, Scale, SetWeights
from tsctl.deploy.outcome import Applied

#: Signs before a line, besides those of changes.
KEPT, REFUSED = "?", "x"


@dataclass(frozen=True)
class Line:
    """One line of a plan."""

    model: str  # empty where it is of a node
    sign: str
    cells: tuple[str, str, str, str]  # version, kind, place, description

    def text(self, widths: Sequence[int]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(self.cells, widths, strict=True)]
        return f"{self.sign} {'  '.join(padded)}".rstrip()


def lines_of(plan: Plan) -> list[Line]:
    """Every line, models in the order in which the plan first names them."""
    lines = [*_changes(plan), *_refusals(plan), *_kept(plan)]
    order = list(dict.fromkeys(line.model for line in lines))
    return sorted(lines, key=lambda line: order.index(line.model))


def aligned(lines: Sequence[Line]) -> list[str]:
    """The lines' texts, their columns under each other."""
    columns = zip(*(line.cells for line in lines), strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [line.text(widths) for line in lines]


def heading(plan: Plan, model: str) -> str:
    """The line above a model's lines."""
    return f"{model} (changed since the last apply)" if model in plan.drifted else model


def summary(plan: Plan) -> str:
    """One line: how many changes, and what the plan does not cover."""
    counts = {
        "to register": _places(plan, "+"),
        "to change": _places(plan, "~"),
        "to retire": _places(plan, "-"),
        "refused": len(plan.refusals),
        "not in deployment.yaml": len(plan.unmanaged),
    }
    parts = [f"{count} {text}" for text, count in counts.items() if count]
    parts += [f"{one.place} is unavailable" for one in plan.unavailable]
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
                "model": one.model,
                "version": one.version,
                "places": list(one.places),
                "reason": one.reason,
                "hint": one.hint,
                "exit_code": one.error.exit_code,
            }
            for one in plan.refusals
        ],
        "unmanaged": [
            {
                "model": one.model,
                "version": one.version,
                "place": one.place,
                "what": one.description,
                "why_kept": one.reason,
            }
            for one in plan.unmanaged
        ],
        "drifted": list(plan.drifted),
        "away": [{"place": one.place, "reason": one.reason} for one in plan.unavailable],
    }


def applied_json(before: Plan, applied: Applied, after: Plan) -> dict[str, Any]:
    """A plan, its result, and the plan that is left, for machines."""
    return {
        "plan": plan_json(before),
        "done": [change_json(change) for change in applied.done],
        "failures": [
            {
                "kind": one.change.kind,
                "model": one.change.model,
                "version": one.change.version,
                "place": one.place,
                "reason": one.error.message,
            }
            for one in applied.failures
        ],
        "left_out": [change_json(change) for change in applied.left_out],
        "left": plan_json(after),
    }


def change_json(change: Change) -> dict[str, Any]:
    """One change for machines; `steps` has a line for each place."""
    more: dict[str, Any] = {}
    if isinstance(change, Register | Replace):
        more = {"archive": change.archive, "workers": change.workers}
    elif isinstance(change, Scale):
        more = {"workers": change.workers}
    elif isinstance(change, SetWeights):
        more = {
            "weights": dict(change.weights),
            "weights_before": dict(change.before.weights) if change.before else None,
        }
    return {
        "kind": change.kind,
        "model": change.model,
        "version": change.version,
        **more,
        "steps": [asdict(effect) for effect in change.effects],
    }


def _changes(plan: Plan) -> Iterator[Line]:
    for change in plan.changes:
        for effect in change.effects:
            text = f"{effect.before} -> {effect.after}"
            yield Line(change.model, change.sign, (change.version or "", change.kind, effect.place, text))


def _refusals(plan: Plan) -> Iterator[Line]:
    for one in plan.refusals:
        yield Line(one.model, REFUSED, (one.version or "", "refused", ", ".join(one.places), one.reason))


def _kept(plan: Plan) -> Iterator[Line]:
    for one in plan.unmanaged:
        text = f"{one.description}, not in deployment.yaml ({one.reason})"
        yield Line(one.model, KEPT, (one.version or "", "kept", one.place, text))


def _places(plan: Plan, sign: str) -> int:
    return sum(len(change.effects) for change in plan.changes if change.sign == sign)
