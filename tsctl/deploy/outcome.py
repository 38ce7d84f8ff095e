"""What became of a plan, and the error that it ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

from tsctl.deploy.changes import (
    GATEWAY,
    Change,
    EndRoute,
    Plan,
    Register,
    Retire,
    Scale,
    SetDefault,
    Weigh,
    weights_text,
    workers_text,
)
from tsctl.deploy.preconditions import error_of
from tsctl.errors import AnalysisError, ArchiveError, ConflictError, GatewayError, NodeError, SpecError, TsctlError

_KINDS = (SpecError, ArchiveError, NodeError, GatewayError, AnalysisError, ConflictError)


@dataclass(frozen=True)
class Failure:
    """A change that was not made at one place."""

    change: Change
    place: str
    error: TsctlError


@dataclass
class Applied:
    """What became of a plan."""

    done: list[Change] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: list[Change] = field(default_factory=list)  # because an earlier change of the model failed


def title(change: Change) -> str:
    """What is done, as a person says it."""
    match change:
        case Register():
            return f"registering {change.model} {change.version}"
        case Scale():
            return f"scaling {change.model} {change.version} to {workers_text(change.workers)}"
        case Weigh():
            return f"weights of {change.model}: {weights_text(change.weights)}"
        case SetDefault():
            return f"default of {change.model}: {change.version}"
        case EndRoute():
            return f"taking the route of {change.model} away"
        case Retire():
            return f"retiring {change.model} {change.version}"


def failed(applied: Applied) -> TsctlError | None:
    """An error of the first failure's kind, with the reasons of all; None where nothing failed."""
    if not applied.failures:
        return None
    first = applied.failures[0].error
    kind = next(kind for kind in _KINDS if isinstance(first, kind))
    reasons = [f"  {one.place}: {title(one.change)}: {one.error.message}" for one in applied.failures]
    left_out = [f"  left out: {title(change)}" for change in applied.left_out]
    hints = dict.fromkeys(one.error.hint for one in applied.failures)
    again = "What was done stays; when this is mended, run 'tsctl apply' again for the rest."
    return kind(
        "not all was done:\n" + "\n".join(dict.fromkeys([*reasons, *left_out])),
        "\n       ".join([*filter(None, hints), again]),
    )


def not_covered(plan: Plan) -> TsctlError | None:
    """What a plan itself ends with: its refusals, or what does not answer; None where it covers everything."""
    if plan.refusals:
        return error_of(plan.refusals)
    nodes = [one.place for one in plan.away if one.place != GATEWAY]
    if nodes:
        return NodeError(
            f"no answer from {', '.join(nodes)}: what is there is not known, and was not changed",
            "Run 'tsctl apply' again when it answers; it catches up then.",
        )
    if plan.away:
        return GatewayError(
            "\n".join(one.reason for one in plan.away), "Start it with 'tsctl gateway start', and run this again."
        )
    return None
