"""A plan as people and machines read it. Pure.

Lines are grouped by model, with a line for each node; the order in which they are done is that of the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsctl.deploy.changes import Change, Plan, Register, Scale, Weigh
from tsctl.deploy.outcome import Applied

#: What stands before a line: done, left as it is, and never done.
KEPT, REFUSED = "?", "x"


@dataclass(frozen=True)
class Line:
    """One line of a plan."""

    model: str  # empty where it is of a node
    sign: str
    cells: tuple[str, str, str, str]  # version, kind, place, what

    def text(self, widths: Sequence[int]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(self.cells, widths, strict=True)]
        return f"{self.sign} {'  '.join(padded)}".rstrip()


def lines_of(plan: Plan) -> list[Line]:
    """Every line, models in the order in which the plan first names them."""
    found = [*_changes(plan), *_refusals(plan), *_kept(plan)]
    order = list(dict.fromkeys(line.model for line in found))
    return sorted(found, key=lambda line: order.index(line.model))


def aligned(lines: Sequence[Line]) -> list[str]:
    """The lines' texts, their columns under each other."""
    columns = zip(*(line.cells for line in lines), strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [line.text(widths) for line in lines]


def heading(plan: Plan, model: str) -> str:
    """What stands above a model's lines."""
    return f"{model}, which differs since it was applied last" if model in plan.drifted else model


def summary(plan: Plan) -> str:
    """One line: how much would change, and what the plan does not cover."""
    counted = {
        "to register": _places(plan, "+"),
        "to change": _places(plan, "~"),
        "to retire": _places(plan, "-"),
        "refused": len(plan.refusals),
        "not in deployment.yaml": len(plan.unmanaged),
    }
    parts = [f"{count} {what}" for what, count in counted.items() if count]
    parts += [f"{one.place} is away" for one in plan.away]
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
            {"model": o.model, "version": o.version, "place": o.place, "what": o.what, "why_kept": o.why_kept}
            for o in plan.unmanaged
        ],
        "drifted": list(plan.drifted),
        "away": [{"place": one.place, "reason": one.reason} for one in plan.away],
    }


def applied_json(before: Plan, applied: Applied, after: Plan) -> dict[str, Any]:
    """A plan, what became of it, and what is left, for machines."""
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
    """One change: what, where, from what to what."""
    more: dict[str, Any] = {}
    if isinstance(change, Register):
        more = {"archive": change.archive, "workers": change.workers}
    elif isinstance(change, Scale):
        more = {"workers": change.workers}
    elif isinstance(change, Weigh):
        more = {"weights": dict(change.weights), "weights_before": _weights(change)}
    return {
        "kind": change.kind,
        "model": change.model,
        "version": change.version,
        **more,
        "steps": [{"place": step.place, "before": step.before, "after": step.after} for step in change.steps],
    }


def _weights(change: Weigh) -> Mapping[str, int] | None:
    return dict(change.before.weights) if change.before else None


def _changes(plan: Plan) -> Iterator[Line]:
    for change in plan.changes:
        for step in change.steps:
            what = f"{step.before} -> {step.after}"
            yield Line(change.model, change.sign, (change.version or "", change.kind, step.place, what))


def _refusals(plan: Plan) -> Iterator[Line]:
    for one in plan.refusals:
        yield Line(one.model, REFUSED, (one.version or "", "refused", ", ".join(one.places), one.reason))


def _kept(plan: Plan) -> Iterator[Line]:
    for one in plan.unmanaged:
        what = f"{one.what}, not in deployment.yaml ({one.why_kept})"
        yield Line(one.model, KEPT, (one.version or "", "kept", one.place, what))


def _places(plan: Plan, sign: str) -> int:
    return sum(len(change.steps) for change in plan.changes if change.sign == sign)
