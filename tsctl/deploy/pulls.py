"""Pulls what this machine needs from the store that deployment.yaml names, and keeps the pulled archives bounded.

Invariant: an archive leaves only where deployment.yaml does not name it, no node serves it or will when it starts, no
rollout needs it, and it is no way back. Nothing is asked over the network where nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tsctl.archive.pull import Pulled, pull, pulled_archives, remove_pulled, used_now
from tsctl.archive.remote_store import Entry, RemoteStore, StoreUnavailable, open_store
from tsctl.archive.store import DIGEST_DIGITS, StoredArchive, find_archive, list_archives, parse_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.config.store import StoreSpec
from tsctl.deploy.tidy import uses_of
from tsctl.errors import ArchiveError, SpecError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.engines import served_at_start

_MB = 1 << 20


@dataclass
class Puller:
    """Pulls from one store into one project.

    Args:
        deployment: says which archives are needed; None: there is none, so only what nodes served counts.
        needed: file names of archives that must stay beside those.
    """

    project: Project
    spec: StoreSpec
    deployment: DeploymentSpec | None
    progress: Progress
    needed: set[str] = field(default_factory=set)
    _store: RemoteStore | None = None

    @property
    def store(self) -> RemoteStore:
        """The store of all machines; raises SpecError where it cannot be opened."""
        self._store = self._store or open_store(self.project, self.spec)
        return self._store

    def pull(self, model: str, version: str, digest: str = "", publish: bool = False) -> Pulled:
        """Have a version's archive here, whose digest begins so; raises as `tsctl.archive.pull.pull`."""
        entry = self.store.require(model, version, digest)
        with self.progress.step(f"pulling {model} {version}") as step:
            pulled = pull(self.project, self.store, entry, step.note, self.make_room, publish)
            self.needed.add(pulled.archive.path.name)
            size = f"{pulled.bytes / _MB:.1f} MiB"
            step.done(f"{size} from {self.store.address}" if pulled.is_new else f"{size}, here already")
        return pulled

    def make_room(self, entry: Entry) -> None:
        """Remove pulled archives that nothing needs, the longest unused first, until one more fits.

        Raises:
            ArchiveError: those that are needed, and this one, have more than `cache_mb`.
            NodeError: a node does not answer, so what it needs is not known.
        """
        here = pulled_archives(self.project)
        most = self.spec.cache_mb * _MB
        surplus = sum(pulled.bytes for pulled in here) + entry.archive.bytes - most
        if surplus <= 0:
            return
        uses = self._uses([pulled.archive for pulled in here])
        for pulled in here:
            if surplus > 0 and pulled.archive.path.name not in uses:
                remove_pulled(self.project, pulled)
                self.progress.line(f"{pulled.archive.path.name} leaves the cache, because nothing needs it")
                surplus -= pulled.bytes
        if surplus > 0:
            used = sum(p.bytes for p in here if p.archive.path.name in uses)
            raise ArchiveError(
                f"{entry.name} has {entry.archive.bytes / _MB:.1f} MiB, and archives that are needed here have"
                f" {used / _MB:.1f} MiB of the {self.spec.cache_mb} MiB for pulled archives",
                "Raise `store: cache_mb:` in deployment.yaml, or retire versions.",
            )

    def _uses(self, archives: Sequence[StoredArchive]) -> set[str]:
        uses = set(self.needed)
        if self.deployment is None:
            return uses | {name for _, name in served_at_start(self.project)}
        stored = {archive.key for archive in list_archives(self.project)}
        for model, target in self.deployment.models.items():
            for version in target.versions:
                if (key := (model, target.archive(version))) in stored:
                    uses.add(find_archive(self.project, *key).path.name)
        return uses | {name for name, _ in uses_of(self.project, self.deployment, archives)}


def pull_named(project: Project, deployment: DeploymentSpec, progress: Progress) -> dict[tuple[str, str], TsctlError]:
    """Pull every archive that deployment.yaml names and this machine lacks.

    Returns:
        Why the archive of a model's version could not be pulled; empty where all are here, or there is no store.
    """
    if deployment.store is None:
        return {}
    puller = Puller(project, deployment.store, deployment, progress)
    stored = list_archives(project)
    failed: dict[tuple[str, str], TsctlError] = {}
    broken: TsctlError | None = None
    for model, target in deployment.models.items():
        for version, spec in target.versions.items():
            source, pin = target.archive(version), (spec.digest if spec else None) or ""
            here = [
                archive
                for archive in stored
                if archive.key == (model, source) and archive.digest.startswith(pin[:DIGEST_DIGITS])
            ]
            for archive in here:
                used_now(project, archive.path.name)
                puller.needed.add(archive.path.name)
            if here:
                continue
            try:
                if broken is not None:
                    raise broken
                puller.pull(model, source, pin)
            except TsctlError as error:
                failed[model, version] = error
                broken = error if isinstance(error, SpecError | StoreUnavailable) else None
    return failed


def pull_version(
    project: Project, deployment: DeploymentSpec, model: str, version: str, progress: Progress, digest: str = ""
) -> None:
    """Pull the archive of a version where this machine has none of it, and deployment.yaml names a store.

    Raises:
        ArchiveError: the store lacks it, does not answer, or its bytes are wrong.
    """
    stored = list_archives(project)
    here = [a for a in stored if a.key == (model, version) and a.digest.startswith(digest[:DIGEST_DIGITS])]
    for archive in here:
        used_now(project, archive.path.name)
    if not here and deployment.store is not None:
        Puller(project, deployment.store, deployment, progress).pull(model, version, digest)


def pull_target(project: Project, deployment: DeploymentSpec, model: str, version: str, progress: Progress) -> None:
    """Pull the archive from which deployment.yaml has a version served, or that of its own name; as `pull_version`."""
    target = deployment.models.get(model)
    spec = target.versions.get(version) if target is not None else None
    source = target.archive(version) if target is not None else version
    pull_version(project, deployment, model, source, progress, (spec.digest if spec else None) or "")


def pull_files(
    project: Project, deployment: DeploymentSpec, names: Iterable[str], progress: Progress
) -> dict[str, TsctlError]:
    """Pull archives by their file names, such as those that a node serves again when it starts.

    Returns:
        Why a file could not be pulled; a name that is not the store's is left out.
    """
    failed: dict[str, TsctlError] = {}
    for name in dict.fromkeys(names):
        parsed = parse_name(name)
        if parsed is None or (project.store / name).is_file():
            continue
        try:
            pull_version(project, deployment, parsed[0], parsed[1], progress, parsed[2])
        except TsctlError as error:
            failed[name] = error
    return failed


def pull_served(project: Project, deployment: DeploymentSpec, node: str, progress: Progress) -> None:
    """Before a node starts: pull what it serves again; what fails is printed, and its restore says so again."""
    names = [archive for name, archive in served_at_start(project) if name == node]
    for name, error in pull_files(project, deployment, names, progress).items():
        progress.line(f"{name} is not pulled: {error.message}")
