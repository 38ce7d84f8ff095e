"""Makes the changes of a plan, one after the other, each on its nodes at once.

Invariant: nothing is done that the plan does not say. After a change of a model failed, the changes that depend on it
are left out; other versions and other models go on. What was done stays, and the next plan is the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tsctl.archive.store import StoredArchive, archive_of, parse_name
from tsctl.deploy import changes
from tsctl.deploy.applied_state import remember
from tsctl.deploy.changes import Change, Plan, PlanOptions, is_barred_by_rollout, places, title
from tsctl.deploy.observe import Owners
from tsctl.errors import ConflictError, NodeError, TsctlError
from tsctl.gateway.change import set_weights
from tsctl.gateway.drain import drained
from tsctl.gateway.publish import put_routes
from tsctl.gateway.retire import retire
from tsctl.gateway.state import Gateway, changing, traffic_in_force
from tsctl.gateway.sync import sync
from tsctl.host.progress import Note, Progress
from tsctl.nodes.fan_out import is_unavailable, run_on_nodes
from tsctl.nodes.node import Node, Unreachable
from tsctl.rollout.run.journal_files import unfinished

#: Changes that one node makes by itself.
VersionChange = (
    changes.Register | changes.Replace | changes.Scale | changes.Configure | changes.SetDefault | changes.Withdraw
)

#: How long a version that is retired may take to answer its last requests.
DRAIN_S = 60.0


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


def apply(owners: Owners, plan: Plan, options: PlanOptions, progress: Progress) -> Applied:
    """Tries every change of the plan that is not refused, in its order.

    A node that stops answering is left out of later changes.
    """
    applied = Applied()
    attempt = _Attempt(owners, options)
    failed: list[Change] = []
    for change in plan.changes:
        if any(refusal.covers(change, options) for refusal in plan.refusals):
            continue
        if _depends_on(change, [earlier for earlier in failed if earlier.model == change.model]):
            applied.left_out.append(change)
            continue
        failures = attempt.make(change, progress)
        applied.failures += failures
        unavailable = {failure.place for failure in failures if is_unavailable(failure.error)}
        attempt.lost |= unavailable
        is_nowhere = bool(change.nodes) and not set(change.nodes) - {failure.place for failure in failures}
        if is_nowhere or any(failure.place not in unavailable for failure in failures):
            failed.append(change)
        else:
            applied.done.append(change)
    return applied


def _depends_on(change: Change, failed: Sequence[Change]) -> bool:
    """Whether the change must not be made after these changes of its model failed."""
    match change:
        case changes.Register() | changes.Replace() | changes.Configure() | changes.Scale(is_down=False):
            return False  # a version that fails keeps no other from becoming ready
        case changes.SetDefault():
            return any(earlier.version in (None, change.version) for earlier in failed)
        case _:
            return bool(failed)


@dataclass
class _Attempt:
    """One run of `apply`."""

    owners: Owners
    options: PlanOptions
    lost: set[str] = field(default_factory=set)  # nodes that stopped answering

    def make(self, change: Change, progress: Progress) -> list[Failure]:
        """Tries the change on every place; returns where it failed."""
        failures: list[Failure] = []
        try:
            with progress.step(title(change)) as step:
                failures = self._try(change, step.note)
                if len(failures) == len(places(change)):
                    raise failures[0].error
                failed = {failure.place for failure in failures}
                step.done(f"done on {', '.join(place for place in places(change) if place not in failed)}")
        except TsctlError as error:
            failures = failures or [Failure(change, place, error) for place in places(change)]
        return failures

    def _try(self, change: Change, note: Note) -> list[Failure]:
        """Where the change failed.

        Raises:
            TsctlError: it was tried nowhere, or the gateway refused it.
        """
        is_barred = is_barred_by_rollout(change, self.options)
        if is_barred and (rollout := unfinished(self.owners.project, change.model)) is not None:
            raise ConflictError(
                f"rollout {rollout} of {change.model} began meanwhile", "Run this again when it has ended."
            )
        match change:
            case changes.SetWeights() if self.owners.routes is not None:
                self.owners.routes.set_weights(change.model, change.weights)
            case changes.SetWeights():
                _set_weights(self._gateway, change)
            case changes.RemoveRoute():
                _remove_route(self._gateway, change.model)
            case changes.Retire():
                retired = retire(self._gateway, change.model, change.version, DRAIN_S, note)
                return [Failure(change, node, NodeError(why)) for node, why in retired.failed if node in change.nodes]
            case _:
                return self._on_nodes(change, note)
        return []

    def _on_nodes(self, change: VersionChange, note: Note) -> list[Failure]:
        """Changes all nodes at once, or one after the other where the rest must answer for it meanwhile."""
        present = [node for node in self.owners.nodes if node.name in change.nodes and node.name not in self.lost]
        is_down = isinstance(change, changes.Scale) and change.is_down
        is_in_turn = is_down or isinstance(change, changes.Replace | changes.Configure | changes.Withdraw)
        turns = [[node] for node in present] if is_in_turn else [present]
        ended = [result for nodes in turns for result in run_on_nodes(nodes, partial(self._on_node, change), note)]
        failures = [Failure(change, result.node, result.error) for result in ended if result.error is not None]
        failures += [
            Failure(change, name, Unreachable("it does not answer any more"))
            for name in change.nodes
            if name in self.lost
        ]
        if isinstance(change, changes.Register) and len(failures) < len(change.nodes) and not self.options.replace:
            remember(self.owners.project, {f"{change.model}:{change.version}": change.archive})
        return failures

    def _on_node(self, change: VersionChange, node: Node, note: Note) -> None:
        match change:
            case changes.Register():
                node.ensure(self._archive(change.archive), change.version, change.workers, note)
            case changes.Replace():
                node.replace(self._archive(change.archive), change.version, change.workers, note)
            case changes.Scale(is_down=True) if self.owners.gateway is not None:
                with drained(self.owners.gateway, change.model, change.version, node, note):
                    self._scale(change, node, note)
            case changes.Scale():
                self._scale(change, node, note)
            case changes.Configure():
                node.configure(change.model, change.version, note)
            case changes.SetDefault():
                node.set_default(change.model, change.version)
            case changes.Withdraw() if self.owners.gateway is not None:
                if self.owners.gateway.admin.is_live():
                    sync(self.owners.gateway)  # the nodes that stay may have been given the version just now
                with drained(self.owners.gateway, change.model, change.version, node, note, is_for_good=True):
                    self._withdraw(change, node)
            case changes.Withdraw():
                self._withdraw(change, node)

    def _scale(self, change: changes.Scale, node: Node, note: Note) -> None:
        node.scale(change.model, change.version, change.workers, note)
        was = change.before[node.name]
        if was.ready == 0 and parse_name(was.archive) and self._archive(was.archive).path.is_file():
            node.warm_up(self._archive(was.archive), change.version, note)  # nobody has asked it yet

    def _withdraw(self, change: changes.Withdraw, node: Node) -> None:
        target = self.owners.deployment.models.get(change.model)
        node.give_up_default(change.model, change.version, target.default if target is not None else None)
        node.unregister(change.model, change.version)

    def _archive(self, name: str) -> StoredArchive:
        return archive_of(self.owners.project.store / name)

    @property
    def _gateway(self) -> Gateway:
        if self.owners.gateway is None:
            raise AssertionError("a plan without a gateway changes nothing of one. This is a bug.")
        return self.owners.gateway


def _set_weights(gateway: Gateway, change: changes.SetWeights) -> None:
    """The route has the weights; it is made where there is none."""
    sync(gateway)
    now = traffic_in_force(gateway).get(change.model)
    if now is None or now.shares != change.weights:
        set_weights(gateway, change.model, change.weights)


def _remove_route(gateway: Gateway, model: str) -> None:
    with changing(gateway):
        put_routes(gateway, [route for route in traffic_in_force(gateway).values() if route.model != model])
