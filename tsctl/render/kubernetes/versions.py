"""What the archives say of the versions in `deployment.yaml`, as far as manifests need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tsctl.archive.container import digest_of
from tsctl.archive.inspect import facts_of
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, find_archive, list_archives
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.gateway.envoy.render.upstreams import Offer
from tsctl.gateway.sync import offer_of

#: Seconds until a worker has loaded, where an archive does not say.
DEFAULT_STARTUP_S = 120


@dataclass(frozen=True)
class ServedVersion:
    """One version, and what its pods are like.

    Args:
        digest: the SHA-256 of its archive.
        file: the name of its archive in the store.
        workers: in each pod.
        answers: of a language model, answers that the workers of a pod have in hand at most.
        startup_s: until a worker has loaded, at most.
        secrets: the names of the model's secrets.
        offer: what it offers of the OpenAI API; None: nothing.
        records: whether its workers write prediction records.
    """

    model: str
    version: str
    digest: str
    file: str = ""
    workers: int = 1
    answers: int = 1
    startup_s: int = DEFAULT_STARTUP_S
    secrets: tuple[str, ...] = ()
    offer: Offer | None = None
    records: bool = False


def read_versions(project: Project, deployment: DeploymentSpec) -> list[ServedVersion]:
    """Every version of every model, in the order of the file.

    Raises:
        SpecError: a version is served under another name than its archive's, which no image does.
        ArchiveError: a version has no archive, or its archive needs a secret that the file does not give.
    """
    return list(_read(project, deployment))


def _read(project: Project, deployment: DeploymentSpec) -> Iterator[ServedVersion]:
    for model, target in deployment.models.items():
        for version in target.versions:
            if target.archive(version) != version:
                raise SpecError(
                    f"{model} {version} has the archive of {target.archive(version)}, and an image serves an archive"
                    " under its own version",
                    f"Leave models.{model}.versions.{version!r}.archive out, or build the archive as {version}.",
                )
            wanted = target.versions[version]
            archive = _archive(project, model, version, wanted.digest if wanted is not None else None)
            facts = facts_of(archive.path)
            if missing := [name for name in facts.serving.secrets if name not in target.secrets]:
                raise ArchiveError(
                    f"{model} {version} needs the secret {missing[0]}, and deployment.yaml does not give it",
                    f"Add it under models.{model}.secrets.",
                )
            workers = target.workers(version) or facts.integer("minWorkers") or 1
            generation = facts.serving.generation
            yield ServedVersion(
                model,
                version,
                digest_of(archive.path),
                archive.path.name,
                workers=workers,
                answers=workers * (generation.max_answers if generation is not None else 1),
                startup_s=facts.integer("startupTimeout") or DEFAULT_STARTUP_S,
                secrets=tuple(target.secrets),
                offer=offer_of(facts),
                records=facts.serving.records is not None and bool(facts.serving.records.share),
            )


def _archive(project: Project, model: str, version: str, digest: str | None) -> StoredArchive:
    if digest is None:
        return find_archive(project, model, version)
    for archive in list_archives(project):
        if archive.key == (model, version) and archive.digest == digest[:DIGEST_DIGITS]:
            return archive
    raise ArchiveError(f"no archive of {model} {version} with the digest {digest} in the store")
