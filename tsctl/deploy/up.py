"""Makes a node of this machine serve what deployment.yaml says: archives built, node running, versions ready, answers
seen.

Idempotent: what is already so is left alone, and `Outcome.changes` is empty then.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tsctl.archive.build import build_versions
from tsctl.archive.container import read_samples
from tsctl.archive.store import StoredArchive, find_archive
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import ConflictError, NodeError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.client import Reply
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.restore import restore
from tsctl.nodes.torchserve.start import require_same_addresses, start_node, stop_node
from tsctl.nodes.torchserve.warmup import warm_up
from tsctl.rollout.run.journal import unfinished


@dataclass
class Outcome:
    """What `up` did and what the models answered."""

    changes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)  # served, and not in deployment.yaml
    answers: list[tuple[str, str, str, Reply]] = field(default_factory=list)  # model, version, sample, reply


Archives = dict[tuple[str, str], StoredArchive]  # by model and version


def build(project: Project, deployment: DeploymentSpec, progress: Progress) -> tuple[Archives, list[str]]:
    """The archive of every version that deployment.yaml names, and what was built for that.

    Raises:
        SpecError, ArchiveError: one cannot be built.
    """
    wanted = [(model, version) for model, target in deployment.models.items() for version in target.versions]
    made = build_versions(project, wanted, progress)
    changes = [f"built {built.archive.path.name}" for built in made if built.is_new]
    return {pair: find_archive(project, *pair) for pair in wanted}, changes


def up(project: Project, deployment: DeploymentSpec, node: Node, archives: Archives, progress: Progress) -> Outcome:
    """Bring the node to what deployment.yaml says and ask each of its models once.

    A version that fails is told in `failures` and stops no other. Interrupted, a node that was started here is
    stopped again.

    Raises:
        NodeError: the node cannot be started.
        ConflictError: another tsctl starts it.
    """
    outcome = Outcome()
    was_running = node.pid is not None
    if was_running:
        require_same_addresses(node)
    else:
        start_node(project, node, progress)
        outcome.changes.append(f"started node {node.name}")
    try:
        _serve(project, deployment, node, progress, archives, outcome)
    except KeyboardInterrupt:
        if not was_running:
            stop_node(node, progress)
        raise
    return outcome


def _serve(
    project: Project,
    deployment: DeploymentSpec,
    node: Node,
    progress: Progress,
    archives: Archives,
    outcome: Outcome,
) -> None:
    restored = restore(project, node, progress, frozenset(archives))
    outcome.changes += [f"restored {entry.model} {entry.version}" for entry in restored.served]
    outcome.failures += [f"{entry.model} {entry.version}: {reason}" for entry, reason in restored.failed]
    for (model, version), archive in archives.items():
        try:
            _serve_version(project, node, archive, deployment.models[model].workers(version), progress, outcome)
        except TsctlError as error:
            outcome.failures.append(error.message)
    try:
        served = node.client.states()
        outcome.unnamed = [f"{s.model} {s.version}" for s in served if (s.model, s.version) not in archives]
    except NodeError as error:
        outcome.failures.append(error.message)
    for model, target in deployment.models.items():
        try:
            _serve_default(node, model, target.default, outcome)
            _ask(node, archives[model, target.default], outcome)
        except NodeError as error:
            outcome.failures.append(error.message)


def require_no_rollout(project: Project, archive: StoredArchive) -> None:
    """No rollout of the model has begun and not ended, whose canary or stable version would be other bytes from now on.

    Raises:
        ConflictError: one has.
    """
    rollout = unfinished(project, archive.model)
    if rollout is not None:
        raise ConflictError(
            f"rollout {rollout} of {archive.model} has not ended, so {archive.model} {archive.version} is not replaced"
            f" by {archive.path.name}",
            f"Wait for its end, or end it with 'tsctl rollout abort {archive.model}'.",
        )


def _serve_version(
    project: Project,
    node: Node,
    archive: StoredArchive,
    workers: int | None,
    progress: Progress,
    outcome: Outcome,
) -> None:
    found = node.client.describe(archive.model, archive.version)
    name = f"{archive.model} {archive.version}"
    if found and found[0].archive != archive.path.name:
        require_no_rollout(project, archive)
        with progress.step(f"replacing {name}") as step:
            versions.replace(node, found[0], archive, workers, step.note)
            step.done(_ready(node, archive))
        outcome.changes.append(f"replaced {name} by {archive.path.name}")
    elif not found:
        with progress.step(f"registering {name}") as step:
            versions.register(node, archive, workers, step.note)
            step.done(_ready(node, archive))
        outcome.changes.append(f"registered {name}")
    elif not found[0].is_ready or (workers and found[0].min_workers != workers):
        with progress.step(f"scaling {name}") as step:
            wanted = workers or max(1, found[0].min_workers)
            versions.scale(node, archive.model, archive.version, wanted, step.note)
            warm_up(node, archive, step.note)
            step.done(_ready(node, archive))
        outcome.changes.append(f"scaled {name}")


def _serve_default(node: Node, model: str, version: str, outcome: Outcome) -> None:
    if node.client.describe(model, version) and node.client.default_version(model) != version:
        versions.set_default(node, model, version)
        outcome.changes.append(f"made {version} the default of {model}")


def _ask(node: Node, archive: StoredArchive, outcome: Outcome) -> None:
    """One real request to the model's default version; a version that is not ready was told of already."""
    found = node.client.describe(archive.model, archive.version)
    samples = read_samples(archive.path)
    if not found or not found[0].is_ready or not samples:
        return
    name, body, media_type = samples[0]
    reply = node.client.predict(archive.model, None, body, media_type)
    if reply.status != 200:
        outcome.failures.append(f"{archive.model} {archive.version} answered {name} with {reply.status}")
    outcome.answers.append((archive.model, archive.version, name, reply))


def _ready(node: Node, archive: StoredArchive) -> str:
    state = node.client.describe(archive.model, archive.version)[0]
    return f"{state.ready_workers} of {state.min_workers} workers ready"


def curl_line(project: Project, base: str, header: Path | None, archive: StoredArchive, here: Path) -> str:
    """A command that asks the model when pasted in the folder `here`; a secret is read from its file, by curl.

    Args:
        base: the address of the gateway, or of a node.
        header: the file with the header that gives access there.

    The sample is the first one of the archive's folder that is JSON, so that the command can be read.
    """
    samples = sorted((project.archives / archive.model / "samples").glob("*.json"))
    body = f"--data-binary @{os.path.relpath(samples[0], here)}" if samples else "--data '{}'"
    access = f"-H @{os.path.relpath(header, here)} " if header else ""
    return f"curl -sS {access}-H 'Content-Type: application/json' {body} {base}/predictions/{archive.model}"
