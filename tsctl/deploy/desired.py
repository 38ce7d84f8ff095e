"""Reads the desired state: deployment.yaml, and the archives of the store that it refers to."""

from __future__ import annotations

from dataclasses import replace

from tsctl.archive.container import digest_of, open_archive
from tsctl.archive.inspect import read_facts
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, find_archive, list_archives
from tsctl.config.deployment import DeploymentSpec, ModelTarget
from tsctl.config.project import Project
from tsctl.deploy.applied_state import as_applied, recorded
from tsctl.deploy.state import Desired, WantedModel, WantedVersion
from tsctl.errors import ArchiveError


def desired_state(project: Project, deployment: DeploymentSpec) -> Desired:
    """The state that deployment.yaml describes now. A pinned archive is read whole: its bytes count, not its name.

    Raises:
        SpecError: the record of what was served or applied is damaged.
    """
    stored, before = list_archives(project), recorded(project)
    models = []
    for model, target in deployment.models.items():
        versions = []
        for version in target.versions:
            built = [archive for archive in stored if (archive.model, archive.version) == (model, version)]
            try:
                wanted = _wanted(project, target, version, built)
            except ArchiveError as error:  # it keeps nothing else from being planned
                wanted = WantedVersion(version, None, workers=target.workers(version), problem=error.message)
            versions.append(replace(wanted, recorded=before.get(f"{model}:{version}")))
        models.append(WantedModel(model, target.default, tuple(versions), target.shares))
    desired = Desired(tuple(models))
    return replace(desired, as_applied=as_applied(project, desired))


def _wanted(project: Project, target: ModelTarget, version: str, built: list[StoredArchive]) -> WantedVersion:
    spec = target.versions[version]
    pin = spec.digest if spec else None
    chosen: StoredArchive | None = None
    if pin is not None:
        chosen = next((archive for archive in built if archive.digest == pin[:DIGEST_DIGITS]), None)
    elif built:
        chosen = find_archive(project, built[0].model, version)
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
    )


def _workers_inside(archive: StoredArchive) -> int:
    """The number of workers that the archive asks for; 1 where it names none."""
    with open_archive(archive.path) as content:
        return read_facts(content).integer("minWorkers") or 1
