"""Makes the changes of a plan, one after the other, each on its nodes at once.

Invariant: nothing is done that the plan does not say. After a change of a model failed, the model's later changes are
left out; other models go on. What was done stays, and the next plan is the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tsctl.archive.store import StoredArchive, archive_of, parse_name
from tsctl.config.project import Project
from tsctl.deploy.applied_state import remember
from tsctl.deploy.changes import (
    Change,
    EndRoute,
    Plan,
    Register,
    Retire,
    Scale,
    SetDefault,
    Weigh,
)
from tsctl.deploy.observe import Owners
from tsctl.deploy.outcome import Applied, Failure, title
from tsctl.deploy.preconditions import error_of
from tsctl.errors import ConflictError, NodeError, TsctlError
from tsctl.gateway.change import set_weights
from tsctl.gateway.drain import set_aside
from tsctl.gateway.publish import put_traffic
from tsctl.gateway.retire import retire
from tsctl.gateway.state import Gateway, changing, traffic_in_force
from tsctl.gateway.sync import sync
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note, Progress, Step
from tsctl.nodes.fan_out import NodeResult, is_unavailable, run_on_nodes
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.client import Unreachable
from tsctl.nodes.torchserve.node import Node
from tsctl.rollout.run.journal import unfinished

#: How long a version that is retired may have requests in hand.
DRAIN_S = 60.0


@contextmanager
def applying(project: Project) -> Iterator[None]:
    """No other `tsctl apply` changes the deployment while the block runs.

    Raises:
        ConflictError: another one does.
    """
    with exclusive(project.state / "releases" / "apply.lock", "the deployment"):
        yield


def apply(owners: Owners, plan: Plan, progress: Progress) -> Applied:
    """The plan was tried, every change of it in its order; for a caller that is `applying`.

    A node that does not answer any more is left out of later changes.

    Raises:
        ArchiveError, ConflictError, GatewayError: the plan has refusals, and nothing was done.
    """
    if plan.refusals:
        raise error_of(plan.refusals)
    outcome = Applied()
    lost: set[str] = set()
    broken: set[str] = set()
    for change in plan.changes:
        if change.model in broken:
            outcome.left_out.append(change)
            continue
        failures = _make(owners, change, lost, progress)
        outcome.failures += failures
        away = {one.place for one in failures if is_unavailable(one.error)}
        lost |= away
        is_nowhere = bool(change.nodes) and not set(change.nodes) - {one.place for one in failures}
        if is_nowhere or any(one.place not in away for one in failures):
            broken.add(change.model)
        else:
            outcome.done.append(change)
    return outcome


def tell_gateway(owners: Owners) -> None:
    """Envoy, where it runs, knows which node serves what; its supervisor would do the same within seconds."""
    if owners.gateway is not None and owners.gateway.admin.is_live():
        sync(owners.gateway)


def _make(owners: Owners, change: Change, lost: set[str], progress: Progress) -> list[Failure]:
    """The change was tried where it can be; where it failed, and why."""
    places = [place.place for place in change.steps]
    failures: list[Failure] = []
    try:
        with progress.step(title(change)) as step:
            failures = _tried(owners, change, lost, step)
            if len(failures) == len(places):
                raise failures[0].error
            failed = {one.place for one in failures}
            step.done(f"done on {', '.join(place for place in places if place not in failed)}")
    except TsctlError as error:
        failures = failures or [Failure(change, place, error) for place in places]
    return failures


def _tried(owners: Owners, change: Change, lost: set[str], step: Step) -> list[Failure]:
    """Where it failed.

    Raises:
        TsctlError: nowhere was it tried, or the gateway did not take it.
    """
    rollout = unfinished(owners.project, change.model)
    if rollout is not None:
        raise ConflictError(f"rollout {rollout} of {change.model} began meanwhile", "Run this again when it has ended.")
    match change:
        case Register():
            return _registered(owners, change, lost, step.note)
        case Scale() if change.is_down:
            return _scaled_down(owners, change, lost, step.note)
        case Scale():
            return _on_nodes(owners, change, lost, step.note, lambda node, note: _scale(owners, change, node, note))
        case SetDefault():

            def act(node: Node, note: Note) -> None:
                versions.set_default(node, change.model, change.version)

            return _on_nodes(owners, change, lost, step.note, act)
        case Weigh():
            _weigh(_gateway(owners), change)
        case EndRoute():
            _end_route(_gateway(owners), change.model)
        case Retire():
            ended = retire(_gateway(owners), change.model, change.version, DRAIN_S, step.note)
            return [Failure(change, node, NodeError(reason)) for node, reason in ended.failed if node in change.nodes]
    return []


def _registered(owners: Owners, change: Register, lost: set[str], note: Note) -> list[Failure]:
    archive = archive_of(owners.project.store / change.archive)
    failures = _on_nodes(
        owners, change, lost, note, lambda node, told: versions.ensure(node, archive, change.workers, told)
    )
    if len(failures) < len(change.nodes):
        remember(owners.project, {f"{change.model}:{change.version}": change.archive})
    return failures


def _scale(owners: Owners, change: Scale, node: Node, note: Note) -> None:
    versions.scale(node, change.model, change.version, change.workers, note)
    was = change.before[node.name]
    archive = _stored(owners.project, was.archive)
    if was.ready == 0 and archive is not None:  # nobody has asked it yet
        versions.warm_wire(node, archive, note)


def _scaled_down(owners: Owners, change: Scale, lost: set[str], note: Note) -> list[Failure]:
    """As the others, but one node after the other, so that the rest can answer for the one that is set aside."""

    def act(node: Node, told: Note) -> None:
        if owners.gateway is None:
            _scale(owners, change, node, told)
        else:
            with set_aside(owners.gateway, change.model, change.version, node, told):
                _scale(owners, change, node, told)

    parts = [replace(change, before={node: was}) for node, was in change.before.items()]
    return [failure for part in parts for failure in _on_nodes(owners, part, lost, note, act)]


def _stored(project: Project, name: str) -> StoredArchive | None:
    path = project.store / name
    return archive_of(path) if parse_name(name) and path.is_file() else None


def _weigh(gateway: Gateway, change: Weigh) -> None:
    """The route has the weights; it is made where there is none."""
    sync(gateway)
    now = next((one for one in traffic_in_force(gateway) if one.model == change.model), None)
    if now is None or {version: share for version, share in now.weights.items() if share} != change.weights:
        set_weights(gateway, change.model, change.weights)


def _end_route(gateway: Gateway, model: str) -> None:
    with changing(gateway):
        put_traffic(gateway, [one for one in traffic_in_force(gateway) if one.model != model])


def _gateway(owners: Owners) -> Gateway:
    if owners.gateway is None:
        raise AssertionError("a plan without a gateway changes nothing of one. This is a bug.")
    return owners.gateway


def _on_nodes(
    owners: Owners, change: Change, lost: set[str], note: Note, act: Callable[[Node, Note], object]
) -> list[Failure]:
    present = [node for node in owners.named(change.nodes) if node.name not in lost]
    ended: Sequence[NodeResult[object]] = run_on_nodes(present, act, note)
    return [Failure(change, one.node, one.error) for one in ended if one.error is not None] + [
        Failure(change, name, Unreachable("it does not answer any more")) for name in change.nodes if name in lost
    ]
