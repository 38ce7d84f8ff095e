"""Brings up a developer's machine: archives built, nodes started, deployment.yaml reconciled, every model asked once.

Idempotent: a second run changes nothing. Unlike `apply`, it replaces the bytes of a version that was built again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tsctl.archive.build import build_versions
from tsctl.archive.container import read_samples
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.changes import PlanOptions
from tsctl.deploy.observe import Owners
from tsctl.deploy.reconcile import reconcile
from tsctl.errors import NodeError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.observe import ObservedNode, observe
from tsctl.nodes.torchserve.client import Reply
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.restore import restore
from tsctl.nodes.torchserve.start import require_same_addresses, start_node, stop_node


@dataclass(frozen=True)
class Answer:
    """A model's answer to one of its samples."""

    node: str
    model: str
    version: str
    sample: str
    reply: Reply


@dataclass
class UpResult:
    """What `up` changed, what failed, and what the models answered."""

    is_changed: bool = False
    failures: list[str] = field(default_factory=list)
    unnamed: dict[str, list[str]] = field(default_factory=dict)  # served, and not in deployment.yaml; by node
    answers: list[Answer] = field(default_factory=list)


def up(project: Project, deployment: DeploymentSpec, nodes: Sequence[Node], progress: Progress) -> UpResult:
    """Makes nodes of this machine serve what deployment.yaml says; the gateway is left alone.

    What fails is reported in `failures` and stops no other version and no other node. If interrupted, it stops the
    nodes that it started.

    Raises:
        SpecError, ArchiveError: an archive cannot be built.
        NodeError: the only node of deployment.yaml cannot be started.
        ConflictError: another tsctl starts it, or changes the deployment.
    """
    built = build_versions(project, _named(deployment), progress)
    result = UpResult(is_changed=any(archive.is_new for archive in built))
    running: list[Node] = []
    started: list[Node] = []
    try:
        for node in nodes:
            try:
                if node.pid is not None:
                    require_same_addresses(node)
                else:
                    start_node(project, node, progress)
                    started.append(node)
            except TsctlError as error:
                if len(deployment.nodes) == 1:
                    raise
                result.failures.append(f"node {node.name}: {error.message}")
            else:
                running.append(node)
        result.is_changed |= bool(started)
        if running:
            _serve(Owners(project, deployment, tuple(running), None), progress, result)
    except KeyboardInterrupt:
        for node in started:
            stop_node(node, progress)
        raise
    return result


def _serve(owners: Owners, progress: Progress, result: UpResult) -> None:
    """Restores what the nodes served before, reconciles them with deployment.yaml, and asks each model once."""
    for node in owners.nodes:
        restored = restore(owners.project, node, progress, frozenset(_named(owners.deployment)))
        result.is_changed |= bool(restored.served)
        result.failures += [
            f"{_prefix(owners, node.name)}{entry.model} {entry.version}: {reason}" for entry, reason in restored.failed
        ]
    reconciled = reconcile(owners, PlanOptions(replace=True), progress)
    result.is_changed |= bool(reconciled.applied.done)
    failed = [f"{_prefix(owners, one.place)}{one.error.message}" for one in reconciled.applied.failures]
    failed += [refusal.reason for refusal in reconciled.before.refusals]
    if not failed and reconciled.error is not None:
        failed.append(reconciled.error.message)
    result.failures += failed
    for node, observed in zip(owners.nodes, observe(owners.nodes), strict=True):
        served = [(model, version) for model, on in observed.models.items() for version in on.versions]
        named = _named(owners.deployment)
        result.unnamed[node.name] = [f"{model} {version}" for model, version in served if (model, version) not in named]
        for model, target in owners.deployment.models.items():
            try:
                _ask(owners, node, observed, model, target.default, result)
            except NodeError as error:
                result.failures.append(f"{_prefix(owners, node.name)}{error.message}")


def _ask(owners: Owners, node: Node, observed: ObservedNode, model: str, version: str, result: UpResult) -> None:
    """Sends one sample to the model's default version, unless that is not ready, which was reported before."""
    state = observed.version(model, version)
    archive = owners.project.store / state.archive if state is not None and state.is_ready else None
    samples = read_samples(archive) if archive is not None and archive.is_file() else []
    for name, body, media_type in samples[:1]:
        reply = node.client.predict(model, None, body, media_type)
        if reply.status != 200:
            result.failures.append(f"{_prefix(owners, node.name)}{model} {version} answered {name} with {reply.status}")
        result.answers.append(Answer(node.name, model, version, name, reply))


def _named(deployment: DeploymentSpec) -> list[tuple[str, str]]:
    """Model and version of everything that deployment.yaml names."""
    return [(model, version) for model, target in deployment.models.items() for version in target.versions]


def _prefix(owners: Owners, node: str) -> str:
    """The beginning of a line about one of several nodes."""
    return f"node {node}: " if len(owners.deployment.nodes) > 1 else ""
