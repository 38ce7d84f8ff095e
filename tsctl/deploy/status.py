"""Compares what nodes serve with what deployment.yaml names, as one row for each version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsctl.archive.store import parse_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.errors import NodeError
from tsctl.monitoring.recorded import Recorded, read_recorded
from tsctl.nodes.fan_out import is_unavailable
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion, VersionKey
from tsctl.nodes.record import changed_settings


@dataclass(frozen=True)
class VersionRow:
    """One version, wanted or served."""

    model: str
    version: str
    is_default: bool
    state: str  # ready, starting, failed, refused, missing, idle
    ready_workers: int
    workers: int
    pids: tuple[int, ...]
    queue: int
    digest: str | None  # the first 12 digits, from the archive's name
    reason: str  # why it is not ready; empty where it is
    is_wanted: bool  # deployment.yaml names it

    @property
    def is_ready(self) -> bool:
        """Whether it serves; one without workers that nobody wants is as it should be."""
        return self.state == "ready" or (self.state == "idle" and not self.is_wanted)


@dataclass(frozen=True)
class NodeStatus:
    """One node and its versions."""

    node: str
    is_running: bool
    pid: int | None
    engine: str
    addresses: Mapping[str, str]  # by what answers there
    versions: tuple[VersionRow, ...]
    reason: str = ""  # why it does not answer
    changed: str = ""  # what its next start will do otherwise, because deployment.yaml was edited since the last one
    records: Recorded | None = None  # of its workers; None: there are none, or it is on another machine

    @property
    def is_ready(self) -> bool:
        return self.is_running and all(row.is_ready for row in self.versions)

    def as_json(self) -> dict[str, Any]:
        content = asdict(self)
        return {**content, **content.pop("addresses"), "is_ready": self.is_ready}


def all_status(nodes: Sequence[Node], deployment: DeploymentSpec) -> list[NodeStatus]:
    """The status of every node; one that does not answer, or refuses to, has its reason."""
    return [_status(node, observed, deployment) for node, observed in zip(nodes, observe(nodes), strict=True)]


def node_status(node: Node, deployment: DeploymentSpec) -> NodeStatus:
    """The status of one node, with the reason for each version that is not ready.

    Raises:
        NodeError: the node answers, and refuses: its token or its management API.
    """
    [observed] = observe([node])
    if observed.error is not None and not is_unavailable(observed.error):
        raise observed.error
    return _status(node, observed, deployment)


def rows_of(
    models: Mapping[str, ObservedModel], wanted: Iterable[tuple[str, str]], failures: Mapping[VersionKey, str]
) -> list[VersionRow]:
    """A row for every version that is served or wanted, by model and version.

    Args:
        models: what the node serves.
        wanted: (model, version) pairs of the deployment.
        failures: why workers refused to load, by version; the reason of one that is not ready.
    """
    named = set(wanted)
    served = {(model, version) for model, observed in models.items() for version in observed.versions}
    return [
        _row(model, version, models.get(model, ObservedModel(None, {})), failures, (model, version) in named)
        for model, version in sorted(named | served)
    ]


def _status(node: Node, observed: ObservedNode, deployment: DeploymentSpec) -> NodeStatus:
    rows: list[VersionRow] = []
    reason = observed.reason
    if observed.error is None:
        models = deployment.models.items()
        wanted = [
            (m, version) for m, target in models for version in target.versions if target.is_on(version, node.name)
        ]
        rows = rows_of(observed.models, wanted, node.load_failures())
    elif is_unavailable(observed.error) and node.is_ours and _pid(node) is None:
        reason = "it is not running"
    return NodeStatus(
        node.name,
        observed.error is None,
        _pid(node),
        node.engine,
        node.addresses,
        tuple(rows),
        reason,
        changed_settings(node.folder, node.spec) if observed.error is None else "",
        _recorded(node) if node.is_here else None,
    )


def _recorded(node: Node) -> Recorded | None:
    return read_recorded(node.metrics_folder, node.records_folder, node.spec.records_mb << 20)


def _pid(node: Node) -> int | None:
    try:
        return node.pid
    except NodeError:  # a damaged record, which is why it was not asked either
        return None


def _row(
    model: str, version: str, served: ObservedModel, failures: Mapping[VersionKey, str], is_wanted: bool
) -> VersionRow:
    observed = served.versions.get(version)
    condition, reason = _condition(observed)
    if condition in ("starting", "failed", "missing") and (refusal := failures.get((model, version))):
        condition, reason = "refused", refusal
    observed = observed or ObservedVersion("", 0, 0)
    named = parse_name(observed.archive)
    return VersionRow(
        model,
        version,
        is_default=version == served.default,
        state=condition,
        ready_workers=observed.ready,
        workers=observed.workers,
        pids=observed.pids,
        queue=observed.queue,
        digest=named[2] if named else None,
        reason=reason,
        is_wanted=is_wanted,
    )


def _condition(observed: ObservedVersion | None) -> tuple[str, str]:
    """The state of a version, and why it is not ready."""
    if observed is None:
        return "missing", "not registered"
    if observed.workers == 0:
        return "idle", "it has no workers"
    if observed.is_ready:
        return "ready", ""
    return ("failed", observed.failure) if observed.failure else ("starting", "its workers are not ready")
