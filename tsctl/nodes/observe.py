"""Reads what nodes serve now. The only reader: status, plans and the gateway's clusters are views of it.

Nothing here changes a node, and a node that does not answer hides no other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tsctl.errors import NodeError, TsctlError
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.torchserve.client import ManagementError, VersionState
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.readiness import given_up


@dataclass(frozen=True)
class ObservedVersion:
    """One version on one node."""

    archive: str  # file name in the store
    workers: int  # asked for
    ready: int  # READY now
    pids: tuple[int, ...] = ()  # of the READY ones
    queue: int = 0  # requests that wait for a worker
    failure: str = ""  # why TorchServe starts no further worker for one that died; empty where it does

    @property
    def is_ready(self) -> bool:
        """As many READY workers as were asked for; a version with none asked for is not ready."""
        return self.workers > 0 and self.ready >= self.workers


@dataclass(frozen=True)
class ObservedModel:
    """One model's versions on one node."""

    default: str | None  # None: the node names one that it no longer has
    versions: Mapping[str, ObservedVersion]


@dataclass(frozen=True)
class ObservedNode:
    """What one node serves, or why that is not known."""

    name: str
    models: Mapping[str, ObservedModel] = field(default_factory=dict)
    error: TsctlError | None = None  # None: it answered

    @property
    def reason(self) -> str:
        """Why it did not answer, on one line; empty where it did."""
        return self.error.summary if self.error is not None else ""

    def version(self, model: str, version: str) -> ObservedVersion | None:
        """The version on this node; None where it is not registered."""
        observed = self.models.get(model)
        return observed.versions.get(version) if observed else None


def observe(nodes: Sequence[Node]) -> list[ObservedNode]:
    """Every node's answer, in the order of the nodes, which are asked all at once."""
    answers = run_on_nodes(nodes, lambda node, note: observe_models(node))
    return [ObservedNode(answer.node, answer.value or {}, answer.error) for answer in answers]


def observe_models(node: Node) -> dict[str, ObservedModel]:
    """Every model that the node has registered.

    Raises:
        NodeError: it does not answer, or refuses to.
    """
    states: dict[str, dict[str, ObservedVersion]] = {}
    try:
        for state in node.client.states():
            states.setdefault(state.model, {})[state.version] = _version(node, state)
        return {model: ObservedModel(_default(node, model), versions) for model, versions in states.items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise NodeError(f"{node.spec.management} answers otherwise than TorchServe: {type(error).__name__}") from error


def observe_version(nodes: Sequence[Node], model: str, version: str) -> dict[str, ObservedVersion]:
    """The version on each node that answers and has it, by the node's name; cheaper than `observe`."""
    answers = run_on_nodes(
        nodes, lambda node, note: [_version(node, state) for state in node.client.describe(model, version)]
    )
    return {answer.node: answer.value[0] for answer in answers if answer.value}


def _version(node: Node, state: VersionState) -> ObservedVersion:
    pids = tuple(worker.pid for worker in state.workers if worker.is_ready)
    failure = given_up(node, state, time.time())
    return ObservedVersion(state.archive, state.min_workers, state.ready_workers, pids, state.queue_pending, failure)


def _default(node: Node, model: str) -> str | None:
    """The node's default version; None where TorchServe has lost it (see `versions.py`)."""
    try:
        return node.client.default_version(model)
    except ManagementError as error:
        if error.status != 404:
            raise
        return None
