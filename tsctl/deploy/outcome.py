"""The result of an applied plan, and the error that a command ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

from tsctl.deploy.changes import GATEWAY, Change, Plan
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
    """Which changes of a plan were made."""

    done: list[Change] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: list[Change] = field(default_factory=list)  # because a change that they depend on failed


def failure_error(applied: Applied) -> TsctlError | None:
    """An error of the first failure's kind, with the reasons of all; None where nothing failed."""
    if not applied.failures:
        return None
    first = applied.failures[0].error
    kind = next(kind for kind in _KINDS if isinstance(first, kind))
    reasons = [f"  {failure.place}: {failure.change.title}: {failure.error.message}" for failure in applied.failures]
    left_out = [f"  left out: {change.title}" for change in applied.left_out]
    hints = dict.fromkeys(failure.error.hint for failure in applied.failures)
    again = "Changes that were made stay. Fix the cause, then run 'tsctl apply' again for the rest."
    return kind(
        "not all changes were made:\n" + "\n".join(dict.fromkeys([*reasons, *left_out])),
        "\n       ".join([*filter(None, hints), again]),
    )


def coverage_error(plan: Plan) -> TsctlError | None:
    """The plan's refusals, or the nodes and gateway that did not answer; None where it covers everything."""
    if plan.refusals:
        return error_of(plan.refusals)
    nodes = [unavailable.place for unavailable in plan.unavailable if unavailable.place != GATEWAY]
    if nodes:
        return NodeError(
            f"no answer from {', '.join(nodes)}: its state is unknown and was not changed",
            "Run 'tsctl apply' again when it answers; it catches up then.",
        )
    if plan.unavailable:
        return GatewayError(
            "\n".join(unavailable.reason for unavailable in plan.unavailable),
            "Start it with 'tsctl gateway start', and run this again.",
        )
    return None
