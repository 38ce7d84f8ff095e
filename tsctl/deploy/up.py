"""Brings up a developer's machine: archives built, nodes started, deployment.yaml reconciled, every model asked once.

Idempotent: a second run changes nothing. Unlike `apply`, it replaces the bytes of a version that was built again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tsctl.archive.build import build_shown, sound_archive_folders
from tsctl.archive.known import known
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.changes import PlanOptions
from tsctl.deploy.observe import Owners
from tsctl.deploy.pulls import pull_served
from tsctl.deploy.reconcile import reconcile
from tsctl.errors import ArchiveError, NodeError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.nodes.observed import ObservedNode, Reply


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

    has_several_nodes: bool
    is_changed: bool = False
    failures: list[str] = field(default_factory=list)
    kind: type[TsctlError] = NodeError  # of the error to end with, where something failed
    unnamed: dict[str, list[str]] = field(default_factory=dict)  # served, and not in deployment.yaml; by node
    answers: list[Answer] = field(default_factory=list)

    def fail(self, node: str, reason: str) -> None:
        self.failures.append(f"node {node}: {reason}" if self.has_several_nodes else reason)


def up(project: Project, deployment: DeploymentSpec, nodes: Sequence[Node], progress: Progress) -> UpResult:
    """Makes nodes of this machine serve what deployment.yaml says; the gateway is left alone.

    What fails is reported in `failures` and stops no other version, no other model and no other node. If interrupted,
    it stops the nodes that it started.

    Raises:
        NodeError: the only node of deployment.yaml cannot be started.
        ConflictError: another tsctl starts it, or changes the deployment.
    """
    result = UpResult(len(deployment.nodes) > 1)
    _build(project, deployment, progress, result)
    running: list[Node] = []
    started: list[Node] = []
    try:
        for node in nodes:
            try:
                if node.pid is not None:
                    node.require_same_addresses()
                else:
                    pull_served(project, deployment, node.name, progress)
                    node.start(project, progress)
                    started.append(node)
                    result.is_changed = True
                _restore(project, node, _named(deployment, node), progress, result)
            except TsctlError as error:
                if not result.has_several_nodes:
                    raise
                result.fail(node.name, error.message)
            else:
                running.append(node)
        _reconcile(Owners(project, deployment, tuple(running), None), progress, result)
    except KeyboardInterrupt:
        for node in started:
            node.stop(progress)
        raise
    for node, observed in zip(running, observe(running), strict=True):
        served = [(model, version) for model, on in observed.models.items() for version in on.versions]
        named = _named(deployment, node)
        result.unnamed[node.name] = [f"{model} {version}" for model, version in served if (model, version) not in named]
        for model, target in deployment.models.items():
            if target.is_on(target.default, node.name):
                _ask(project, node, observed, model, target.default, result)
    return result


def _named(deployment: DeploymentSpec, node: Node) -> list[tuple[str, str]]:
    """Models and versions that the node is to serve."""
    models = deployment.models.items()
    return [
        (model, version) for model, target in models for version in target.versions if target.is_on(version, node.name)
    ]


def _build(project: Project, deployment: DeploymentSpec, progress: Progress, result: UpResult) -> None:
    """Build every archive that an archive.yaml names; another one, such as a stock archive, is in the store or refused.

    A version whose archive cannot be built is served from its last archive, where the store has one.
    """
    folders, errors = sound_archive_folders(project)
    failed: list[TsctlError] = [*errors]
    models = deployment.models.items()
    needed = dict.fromkeys((model, target.archive(version)) for model, target in models for version in target.versions)
    for model, version in needed:
        if model in folders and version in folders[model][1].versions:
            try:
                result.is_changed |= build_shown(project, *folders[model], version, progress).is_new
            except TsctlError as error:
                failed.append(error)
    result.failures += [error.message for error in failed]
    result.kind = type(failed[0]) if failed else result.kind


def _restore(
    project: Project, node: Node, named: Sequence[tuple[str, str]], progress: Progress, result: UpResult
) -> None:
    """Registers what the node served before and deployment.yaml does not name."""
    restored = node.restore(project, progress, frozenset(named))
    result.is_changed |= bool(restored.served)
    for (model, version), reason in restored.failed:
        result.fail(node.name, f"{model} {version}: {reason}")


def _reconcile(owners: Owners, progress: Progress, result: UpResult) -> None:
    reconciled = reconcile(owners, PlanOptions(replace=True), progress)
    result.is_changed |= bool(reconciled.applied.done)
    for failure in reconciled.applied.failures:
        result.fail(failure.place, failure.error.message)
    result.failures += [refusal.reason for refusal in reconciled.before.refusals]
    if reconciled.error is not None and not reconciled.applied.failures and not reconciled.before.refusals:
        result.failures.append(reconciled.error.message)


def _ask(project: Project, node: Node, observed: ObservedNode, model: str, version: str, result: UpResult) -> None:
    """Sends one sample to the model's default version, unless that is not ready, which was reported before."""
    state = observed.version(model, version)
    archive = project.store / state.archive if state is not None and state.is_ready else None
    try:
        samples = known(archive).samples if archive is not None and archive.is_file() else ()
    except ArchiveError as error:
        return result.fail(node.name, error.message)
    for name, body, media_type in samples[:1]:
        try:
            reply = node.predict(model, None, body, media_type)
        except NodeError as error:
            result.fail(node.name, error.message)
            continue
        if reply.status != 200:
            result.fail(node.name, f"{model} {version} answered {name} with {reply.status}")
        result.answers.append(Answer(node.name, model, version, name, reply))
