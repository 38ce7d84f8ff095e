"""Looks, plans, makes the plan so, and looks again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tsctl.deploy.applied_state import remember, remember_applied
from tsctl.deploy.apply import apply, applying, tell_gateway
from tsctl.deploy.changes import Plan
from tsctl.deploy.desired import desired_state
from tsctl.deploy.observe import Owners, actual_state
from tsctl.deploy.outcome import Applied, failed, not_covered
from tsctl.deploy.plan import make_plan
from tsctl.deploy.state import Actual
from tsctl.errors import ConflictError, TsctlError
from tsctl.host.progress import Progress


@dataclass(frozen=True)
class Prune:
    """What of that which deployment.yaml does not name shall leave."""

    versions: bool = False
    models: bool = False  # with their routes


@dataclass(frozen=True)
class Reconciled:
    """A plan, what became of it, and what is left."""

    before: Plan
    applied: Applied
    after: Plan

    @property
    def error(self) -> TsctlError | None:
        """What it ends with; None where nodes and Envoy do what deployment.yaml says."""
        if error := failed(self.applied) or not_covered(self.after):
            return error
        if self.after.changes:
            return ConflictError(
                "all changes were made, and something differs from deployment.yaml again: somebody else changes it",
                "See 'tsctl plan', and run this again.",
            )
        return None


def plan_now(owners: Owners, prune: Prune) -> Plan:
    """What would change; nothing is written."""
    desired = desired_state(owners.project, owners.deployment)
    return make_plan(desired, actual_state(owners), prune.versions, prune.models)


def reconcile(owners: Owners, prune: Prune, progress: Progress, tell: Callable[[Plan], None]) -> Reconciled:
    """Nodes and Envoy do what deployment.yaml says, as far as they answer.

    Args:
        tell: called with the plan before anything is changed.

    Raises:
        ArchiveError, ConflictError, GatewayError: the plan is refused and nothing was done, or another tsctl applies.
    """
    with applying(owners.project):
        before = _looked(owners, prune)
        tell(before)
        applied = apply(owners, before, progress)
        if not before.changes:
            return Reconciled(before, applied, before)
        if not applied.failures:
            tell_gateway(owners)
        return Reconciled(before, applied, _looked(owners, prune))


def _looked(owners: Owners, prune: Prune) -> Plan:
    """The plan, after what was seen was remembered."""
    desired, actual = desired_state(owners.project, owners.deployment), actual_state(owners)
    remember(owners.project, _served(actual))
    plan = make_plan(desired, actual, prune.versions, prune.models)
    if plan.is_empty and not plan.away:
        remember_applied(owners.project, desired)
    return plan


def _served(actual: Actual) -> dict[str, str]:
    """The archive of each `model:version` that nodes have READY, whoever registered it.

    A version that nodes have from different bytes is passed over: which ones are right is for a person to say.
    """
    found: dict[str, set[str]] = {}
    for node in actual.answering:
        for model, served in node.models.items():
            for version, state in served.versions.items():
                if state.is_ready:
                    found.setdefault(f"{model}:{version}", set()).add(state.archive)
    return {name: archives.pop() for name, archives in found.items() if len(archives) == 1}
