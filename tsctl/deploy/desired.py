"""Reads the desired state: deployment.yaml, and the archives of the store that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tsctl.archive.container import digest_of, open_archive
from tsctl.archive.inspect import read_facts
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, find_archive, list_archives
from tsctl.config.deployment import DeploymentSpec, ModelTarget
from tsctl.config.project import Project
from tsctl.deploy.applied_state import as_applied, recorded
from tsctl.deploy.state import Desired, WantedModel, WantedVersion


def desired_state(project: Project, deployment: DeploymentSpec) -> Desired:
    """The state that deployment.yaml describes now. A pinned archive is read whole: its bytes count, not its name.

    Raises:
        SpecError: the record of what was served or applied is damaged.
        ArchiveError: an archive of the store cannot be read.
    """
    stored = list_archives(project)
    before = recorded(project)
    desired = Desired(
        tuple(
            WantedModel(
                model,
                target.default,
                tuple(_wanted(project, model, version, target, stored, before) for version in target.versions),
                target.shares,
            )
            for model, target in deployment.models.items()
        )
    )
    return replace(desired, as_applied=as_applied(project, desired))


def _wanted(
    project: Project,
    model: str,
    version: str,
    target: ModelTarget,
    stored: list[StoredArchive],
    before: Mapping[str, str],
) -> WantedVersion:
    spec = target.versions[version]
    pin = spec.digest if spec else None
    own = [archive for archive in stored if (archive.model, archive.version) == (model, version)]
    chosen: StoredArchive | None = None
    if pin is not None:
        chosen = next((archive for archive in own if archive.digest == pin[:DIGEST_DIGITS]), None)
    elif own:
        chosen = find_archive(project, model, version)
    workers = target.workers(version)
    if workers is None and chosen is not None:
        workers = _workers_inside(chosen)
    return WantedVersion(
        version,
        chosen.path.name if chosen else None,
        "" if chosen is None else digest_of(chosen.path) if pin else chosen.digest,
        pin,
        workers,
        tuple(archive.path.name for archive in own if archive != chosen),
        before.get(f"{model}:{version}"),
    )


def _workers_inside(archive: StoredArchive) -> int:
    """The number of workers that the archive asks for; 1 where it names none."""
    with open_archive(archive.path) as content:
        workers = read_facts(content).config.get("minWorkers", 1)
    return workers if isinstance(workers, int) and workers > 0 else 1
