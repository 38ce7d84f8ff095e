"""Reads the desired state: deployment.yaml, and the archives of the store that it refers to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from tsctl.archive.checks import stock_requirements
from tsctl.archive.container import digest_of, open_archive
from tsctl.archive.inspect import facts_of
from tsctl.archive.known import lacks_golden
from tsctl.archive.pull import was_pulled
from tsctl.archive.scans import scan_of
from tsctl.archive.secrets import missing_secrets
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, archive_of, list_archives, newest
from tsctl.archive.trust import Trust, judge, sentence, stated_trust
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.applied_state import as_applied, recorded
from tsctl.deploy.state import Desired, WantedModel, WantedVersion
from tsctl.errors import ArchiveError, TsctlError
from tsctl.nodes.node import Node


def desired_state(
    project: Project,
    deployment: DeploymentSpec,
    nodes: Sequence[Node] = (),
    not_pulled: Mapping[tuple[str, str], TsctlError] = {},
) -> Desired:
    """The state that deployment.yaml describes now. A pinned archive is read whole: its bytes count, not its name.

    Args:
        nodes: say what their engines cannot serve.
        not_pulled: why the archive of a model's version could not be pulled from the store of all machines.

    Raises:
        SpecError: the record of what was served or applied is damaged.
    """
    before, builds = recorded(project), defaultdict[tuple[str, str], list[StoredArchive]](list)
    for archive in list_archives(project):
        builds[archive.key].append(archive)
    trust_of = stated_trust(project, deployment)
    models = []
    for model, target in deployment.models.items():
        versions = []
        for version in target.versions:
            source = target.archive(version)
            try:
                wanted = _wanted(project, deployment, model, version, builds.get((model, source), []), trust_of)
            except ArchiveError as error:  # it keeps nothing else from being planned
                wanted = WantedVersion(version, None, workers=target.workers(version), problem=error.message)
            if wanted.archive is None and (failed := not_pulled.get((model, version))) is not None:
                wanted = replace(wanted, problem=failed.message, remedy=failed.hint)
            on = [node for node in nodes if target.is_on(version, node.name)]
            versions.append(
                replace(
                    wanted,
                    recorded=before.get(f"{model}:{version}"),
                    source=source if source != version else "",
                    nodes=target.nodes(version),
                    impossible=dict(_impossible(project, wanted, on)),
                    settings={node.name: named for node in on if (named := node.settings(target.versions[version]))},
                )
            )
        models.append(WantedModel(model, target.default, tuple(versions), target.shares))
    desired = Desired(tuple(models))
    return replace(desired, as_applied=as_applied(project, desired))


def _wanted(
    project: Project,
    deployment: DeploymentSpec,
    model: str,
    version: str,
    built: list[StoredArchive],
    trust_of: Callable[[str], Trust],
) -> WantedVersion:
    target = deployment.models[model]
    spec = target.versions[version]
    pin = spec.digest if spec else None
    chosen: StoredArchive | None = None
    if pin is not None:
        chosen = next((archive for archive in built if archive.digest == pin[:DIGEST_DIGITS]), None)
    elif built:
        chosen = newest(built)
    workers = target.workers(version)
    if chosen is None:
        return WantedVersion(version, None, "", pin, workers, tuple(archive.path.name for archive in built))
    return WantedVersion(
        version,
        chosen.path.name,
        digest_of(chosen.path) if pin else chosen.digest,
        pin,
        _workers_inside(chosen) if workers is None else workers,
        tuple(archive.path.name for archive in built if archive != chosen),
        barred=_barred(project, deployment, chosen, trust_of),
        lacks_golden=_lacks_golden(chosen),
        lacks_packages=_lacks_packages(chosen),
        is_pulled=was_pulled(project, chosen.path.name),
    )


def _lacks_golden(archive: StoredArchive) -> bool:
    try:
        return lacks_golden(archive.path)
    except ArchiveError:  # whoever registers it says why it cannot be read
        return False


def _lacks_packages(archive: StoredArchive) -> str:
    try:
        if not (facts := facts_of(archive.path)).is_stock:
            return ""
        with open_archive(archive.path) as content:
            return stock_requirements(content, facts)
    except ArchiveError:  # as above
        return ""


def _barred(
    project: Project, deployment: DeploymentSpec, archive: StoredArchive, trust_of: Callable[[str], Trust]
) -> tuple[str, str] | None:
    try:
        return _missing_secret(deployment, archive) or _distrust(project, archive, trust_of)
    except ArchiveError:  # whoever registers it says why it cannot be read
        return None


def _missing_secret(deployment: DeploymentSpec, archive: StoredArchive) -> tuple[str, str] | None:
    """Which secret the archive needs and does not get, and how it would."""
    missing = missing_secrets(deployment, archive.model, facts_of(archive.path).serving.secrets)
    if not missing:
        return None
    return (
        f"it needs the secret {missing[0]}, and deployment.yaml does not give it",
        f"Add under models: {archive.model}: secrets: {{{missing[0]}: {{env: VARIABLE}}}}, or {{file: PATH}}.",
    )


def _distrust(project: Project, archive: StoredArchive, trust_of: Callable[[str], Trust]) -> tuple[str, str] | None:
    """Why an archive's pickles are not read, and how they would be; None where they are, or it has none."""
    scan = scan_of(project, archive)
    if not scan.unsafe:
        return None
    verdict = judge(scan, trust_of(archive.model))
    return (sentence(verdict.refused), verdict.hint) if verdict.refused else None


def _impossible(project: Project, wanted: WantedVersion, on: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """Nodes that can never serve the version, with the reason."""
    archive = archive_of(project.store / wanted.archive) if wanted.archive is not None else None
    for node in on:
        if archive is not None and (reason := _why_not(node, archive, wanted)):
            yield node.name, reason


def _why_not(node: Node, archive: StoredArchive, wanted: WantedVersion) -> str:
    try:
        return (
            node.cannot(archive, wanted.version)
            or node.cannot_have(archive, wanted.workers or 0)
            or node.why_unprepared(archive)
        )
    except ArchiveError as error:
        return error.summary


def _workers_inside(archive: StoredArchive) -> int:
    """The number of workers that the archive asks for; 1 where it names none."""
    return facts_of(archive.path).integer("minWorkers") or 1
