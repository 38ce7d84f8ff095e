"""The one reconciler, of `apply` and `up` alike: observes, plans, applies, and observes again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsctl.archive.secrets import refresh_secrets
from tsctl.deploy.applied_state import remember, remember_applied
from tsctl.deploy.apply import Applied, apply
from tsctl.deploy.changes import GATEWAY, Plan, PlanOptions, title
from tsctl.deploy.cluster import observe_cluster, plan_routes, require_no_pruning
from tsctl.deploy.desired import desired_state
from tsctl.deploy.observe import Owners, actual_state, with_rollouts
from tsctl.deploy.plan import make_plan
from tsctl.deploy.preconditions import error_of
from tsctl.deploy.pulls import pull_named
from tsctl.deploy.state import Actual, Desired
from tsctl.errors import AnalysisError, ArchiveError, ConflictError, GatewayError, NodeError, SpecError, TsctlError
from tsctl.gateway.sync import sync
from tsctl.host.locks import exclusive
from tsctl.host.progress import Progress

_KINDS = (SpecError, ArchiveError, NodeError, GatewayError, AnalysisError, ConflictError)


@dataclass(frozen=True)
class Reconciled:
    """A plan, its result, and the plan that is left."""

    before: Plan
    applied: Applied
    after: Plan

    @property
    def error(self) -> TsctlError | None:
        """The error to end with; None where nodes and Envoy do what deployment.yaml says."""
        if error := failure_error(self.applied) or coverage_error(self.after):
            return error
        if self.after.changes:
            return ConflictError(
                "all changes were made, and something differs from deployment.yaml again: somebody else changes it",
                "See 'tsctl plan', and run this again.",
            )
        return None


def plan_now(owners: Owners, options: PlanOptions, progress: Progress) -> Plan:
    """The plan for what is observed now; nothing is written, except archives that are pulled from the store."""
    if owners.routes is not None:
        require_no_pruning(options)
        unfinished = with_rollouts(owners, Actual(()))
        return plan_routes(owners.deployment, observe_cluster(owners.deployment, owners.routes, unfinished))
    return make_plan(_desired(owners, progress), actual_state(owners), options)


def reconcile(
    owners: Owners, options: PlanOptions, progress: Progress, show: Callable[[Plan], None] = lambda plan: None
) -> Reconciled:
    """Makes nodes and Envoy do what deployment.yaml says, as far as they answer.

    Nothing of a model with a refusal is changed, and other models are. With `options.replace`, for a developer's own
    machine, only the refused changes are left out, and what is served is not recorded.

    Args:
        show: called with the plan before anything is changed.

    Raises:
        ConflictError: another tsctl applies.
        SpecError: a secret cannot be read.
    """
    with exclusive(owners.project.state / "releases" / "apply.lock", "the deployment"):
        before = _observe_and_plan(owners, options, progress)
        show(before)
        if owners.routes is None:  # the pods of a cluster get theirs from a Secret
            refresh_secrets(owners.project, owners.deployment)
        applied = apply(owners, before, options, progress)
        if not before.changes and not before.is_unpublished:
            return Reconciled(before, applied, before)
        gateway = owners.gateway
        if not applied.failures and gateway is not None and (gateway.shared is not None or gateway.admin.is_live()):
            sync(gateway)  # the supervisor of a single one would do that within seconds
        return Reconciled(before, applied, _observe_and_plan(owners, options, progress))


def failure_error(applied: Applied) -> TsctlError | None:
    """An error of the first failure's kind, with the reasons of all; None where nothing failed."""
    if not applied.failures:
        return None
    first = applied.failures[0].error
    kind = next(kind for kind in _KINDS if isinstance(first, kind))
    reasons = [f"  {failure.place}: {title(failure.change)}: {failure.error.message}" for failure in applied.failures]
    left_out = [f"  left out: {title(change)}" for change in applied.left_out]
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
    nodes = [unavailable for unavailable in plan.unavailable if unavailable.place.partition(" ")[0] != GATEWAY]
    if nodes:
        names = ", ".join(node.place for node in nodes)
        reasons = [f"  {node.place}: {node.reason}" for node in nodes]
        hints = dict.fromkeys(filter(None, (node.hint for node in nodes)))
        return NodeError(
            "\n".join([f"no answer from {names}: its state is unknown and was not changed", *reasons]),
            "\n       ".join([*hints, "Run 'tsctl apply' again when it answers; it catches up then."]),
        )
    if plan.unavailable:
        gateways = [unavailable for unavailable in plan.unavailable if unavailable.place != GATEWAY]
        if gateways:
            lines = [f"  {gateway.place}: {gateway.reason}" for gateway in gateways]
            return GatewayError(
                "\n".join(["all others have it, and these take it when they report again:", *lines]), gateways[0].hint
            )
        return GatewayError(
            "\n".join(unavailable.reason for unavailable in plan.unavailable),
            "Start it with 'tsctl gateway start', and run this again.",
        )
    return None


def _desired(owners: Owners, progress: Progress) -> Desired:
    not_pulled = pull_named(owners.project, owners.deployment, progress)
    return desired_state(owners.project, owners.deployment, owners.nodes, not_pulled)


def _observe_and_plan(owners: Owners, options: PlanOptions, progress: Progress) -> Plan:
    """The plan, after what was observed was recorded."""
    if options.replace or owners.routes is not None:
        return plan_now(owners, options, progress)
    desired, actual = _desired(owners, progress), actual_state(owners)
    remember(owners.project, _served(actual))
    plan = make_plan(desired, actual, options)
    if plan.is_empty and not plan.unavailable:
        remember_applied(owners.project, desired)
    return plan


def _served(actual: Actual) -> dict[str, str]:
    """The archive of each `model:version` that nodes have READY.

    A version that nodes have from different bytes is left out: a person must say which ones are right.
    """
    archives: dict[str, set[str]] = {}
    for node in actual.answering:
        for model, served in node.models.items():
            for version, state in served.versions.items():
                if state.is_ready:
                    archives.setdefault(f"{model}:{version}", set()).add(state.archive)
    return {name: names.pop() for name, names in archives.items() if len(names) == 1}
