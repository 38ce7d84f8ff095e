"""Holds what deployment.yaml wants against what nodes serve, as rows that a person or a machine can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from handlers.contract import LoadReport
from tsctl.archive.store import parse_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.torchserve.client import VersionState
from tsctl.nodes.torchserve.logs import load_reports
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.session import Unreachable
from tsctl.nodes.torchserve.tokens import NoKeyFile


@dataclass(frozen=True)
class VersionRow:
    """One version, wanted or served."""

    model: str
    version: str
    is_default: bool
    state: str  # ready, starting, refused, missing, idle
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
    inference: str
    management: str
    metrics: str
    versions: tuple[VersionRow, ...]
    reason: str = ""  # why it does not answer

    @property
    def is_ready(self) -> bool:
        return self.is_running and all(row.is_ready for row in self.versions)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_ready": self.is_ready}


def all_status(nodes: Sequence[Node], deployment: DeploymentSpec) -> list[NodeStatus]:
    """Every node, asked all at once; one that refuses to tell its state has its reason, as one that is down."""
    found = []
    ended = run_on_nodes(nodes, lambda node, note: node_status(node, deployment))
    for node, one in zip(nodes, ended, strict=True):
        if one.value is not None:
            found.append(one.value)
        elif one.error is not None:
            found.append(_silent(node, one.error.summary))
    return found


def node_status(node: Node, deployment: DeploymentSpec) -> NodeStatus:
    """What the node serves now, with the reason for each version that is not ready.

    Raises:
        NodeError: the node answers, and refuses: its token or its management API.
    """
    wanted = [(model, version) for model, target in deployment.models.items() for version in target.versions]
    try:
        states = node.client.states()
        defaults = {model: node.client.default_version(model) for model in {state.model for state in states}}
    except (Unreachable, NoKeyFile) as error:
        return _silent(node, "it is not running" if node.is_ours and node.pid is None else error.message)
    rows = rows_of(states, defaults, wanted, load_reports(node.paths.worker_log))
    return NodeStatus(node.name, True, node.pid, *_addresses(node), tuple(rows))


def rows_of(
    states: Iterable[VersionState],
    defaults: Mapping[str, str],
    wanted: Iterable[tuple[str, str]],
    reports: Iterable[LoadReport],
) -> list[VersionRow]:
    """A row for every version that is served or wanted, by model and version.

    Args:
        states: what the node describes.
        defaults: default version by model.
        wanted: (model, version) pairs of the deployment.
        reports: how loads ended, oldest first; the last one of a version that is not ready gives its reason.
    """
    last = {(report.model, report.version): report for report in reports}
    asked = set(wanted)
    rows = [_served_row(s, defaults.get(s.model), last, (s.model, s.version) in asked) for s in states]
    served = {(row.model, row.version) for row in rows}
    rows += [_missing_row(*pair, last) for pair in asked - served]
    return sorted(rows, key=lambda row: (row.model, row.version))


def _silent(node: Node, why: str) -> NodeStatus:
    return NodeStatus(node.name, False, node.pid, *_addresses(node), (), why)


def _addresses(node: Node) -> tuple[str, str, str]:
    return node.spec.inference, node.spec.management, node.spec.metrics


def _served_row(
    state: VersionState, default: str | None, last: Mapping[tuple[str, str], LoadReport], is_wanted: bool
) -> VersionRow:
    refusal = _refusal(last.get((state.model, state.version)))
    named = parse_name(state.archive)
    condition, reason = "ready", ""
    if not state.is_ready:
        condition, reason = ("refused", refusal) if refusal else ("starting", "its workers are not ready")
        if state.min_workers == 0:
            condition, reason = "idle", "it has no workers"
    return VersionRow(
        model=state.model,
        version=state.version,
        is_default=state.version == default,
        state=condition,
        ready_workers=state.ready_workers,
        workers=state.min_workers,
        pids=tuple(worker.pid for worker in state.workers if worker.is_ready),
        queue=state.queue_pending,
        digest=named[2] if named else None,
        reason=reason,
        is_wanted=is_wanted,
    )


def _missing_row(model: str, version: str, last: Mapping[tuple[str, str], LoadReport]) -> VersionRow:
    refusal = _refusal(last.get((model, version)))
    return VersionRow(
        model, version, False, "refused" if refusal else "missing", 0, 0, (), 0, None, refusal or "not registered", True
    )


def _refusal(report: LoadReport | None) -> str:
    return report.reason if report and not report.is_ready else ""
