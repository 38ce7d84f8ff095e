"""Which pickles are trusted: those of a name and a digest that archive.yaml or deployment.yaml states.

An archive cannot trust itself: what counts are the files of the project in which a command runs. A trusted file may
import anything, because its very bytes are trusted; any other byte makes it another file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tsctl.archive.build import sound_archive_folders
from tsctl.archive.container import digest_of
from tsctl.archive.pickles import UnsafePickle
from tsctl.config.archive import ArchiveSpec
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.config.trust import split_trust
from tsctl.errors import ArchiveError, SpecError

_SHOWN = 3


@dataclass(frozen=True)
class Trust:
    """The trusted files of one model."""

    model: str
    entries: tuple[str, ...] = ()  # NAME@sha256:HEX
    place: str = "archive.yaml"  # where a line would be added
    unread: str = ""  # why deployment.yaml, which may state more, was not read; empty where it was, or there is none

    def digests(self, name: str) -> list[str]:
        """The trusted digests of a file."""
        return [digest for named, digest in map(split_trust, self.entries) if named == name]


@dataclass(frozen=True)
class Scan:
    """What was found in the files of one archive."""

    files: tuple[str, ...]
    unsafe: tuple[UnsafePickle, ...]
    digests: dict[str, str]  # SHA-256 of the files that are unsafe


@dataclass(frozen=True)
class Verdict:
    """What trust says of the unsafe pickles in an archive."""

    refused: list[UnsafePickle] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)  # a sentence for each trusted file
    unused: list[str] = field(default_factory=list)  # a sentence for each entry that trusts nothing
    hint: str = ""  # the lines that would trust what is refused


def stated_trust(project: Project | None, deployment: DeploymentSpec | None = None) -> Callable[[str], Trust]:
    """The trust that the project states for a model, in its archive.yaml and in deployment.yaml; read when it is asked.

    Args:
        project: None: there is none, so nothing is trusted.
        deployment: the content of deployment.yaml; None: it is read, where there is one.

    A deployment.yaml with mistakes trusts nothing, and keeps no archive from being tried.
    """
    if project is None:
        return Trust

    @cache
    def specs() -> tuple[dict[str, tuple[Path, ArchiveSpec]], DeploymentSpec | None, str]:
        folders = sound_archive_folders(project)[0]
        if deployment is not None or not project.deployment.is_file():
            return folders, deployment, ""
        try:
            return folders, read_deployment(project.deployment), ""
        except SpecError as error:
            return folders, None, error.summary

    def of(model: str) -> Trust:
        folders, deployed, unread = specs()
        entries = folders[model][1].trust if model in folders else ()
        if deployed is not None and model in deployed.models:
            entries += deployed.models[model].trust
        place = "archive.yaml" if model in folders else "deployment.yaml"
        return Trust(model, tuple(dict.fromkeys(entries)), place, unread)

    return of


def scanned(unsafe: Sequence[UnsafePickle], folder: Path) -> Scan:
    """The scan of an unpacked archive, with the digests of its unsafe files."""
    names = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = sorted({pickle.file for pickle in unsafe} & set(names))
    return Scan(names, tuple(unsafe), {name: digest_of(folder / name) for name in files})


def judge(scan: Scan, trust: Trust) -> Verdict:
    """Which unsafe pickles of an archive are trusted."""
    trusted = [name for name, digest in scan.digests.items() if digest in trust.digests(name)]
    refused = [pickle for pickle in scan.unsafe if pickle.file not in trusted]
    accepted = [
        f"{name} is trusted by its digest, and {_findings(one for one in scan.unsafe if one.file == name)}"
        for name in trusted
    ]
    return Verdict(refused, accepted, list(_unused(trust, scan)), _hint(refused, scan.digests, trust))


def require_trusted(unsafe: Sequence[UnsafePickle], folder: Path, trust: Trust, what: str) -> None:
    """Check that every unsafe pickle of an unpacked archive is trusted.

    Raises:
        ArchiveError: one is not; the hint has the lines that would trust it.
    """
    verdict = judge(scanned(unsafe, folder), trust)
    if verdict.refused:
        raise ArchiveError(f"{what} does not run: {sentence(verdict.refused)}", verdict.hint)


def sentence(refused: Sequence[UnsafePickle]) -> str:
    """What is wrong with the refused files, for people."""
    files = list(dict.fromkeys(pickle.file for pickle in refused))
    parts = [f"{file} {_findings(one for one in refused if one.file == file)}" for file in files[:_SHOWN]]
    return "; ".join([*parts, *([f"and {len(files) - _SHOWN} more files"] if len(files) > _SHOWN else [])])


def _findings(pickles: Iterable[UnsafePickle]) -> str:
    findings = [pickle.finding for pickle in pickles]
    more = f" and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    return ", ".join(findings[:_SHOWN]) + more


def _hint(refused: Sequence[UnsafePickle], digests: Mapping[str, str], trust: Trust) -> str:
    """The lines that would trust the refused files; empty where there is none to trust."""
    names = [name for name in dict.fromkeys(pickle.file for pickle in refused) if name in digests]
    if not names:
        return ""
    others = [name for name in names if trust.digests(name)]
    changed = f"{', '.join(others)} is trusted with another digest, so its bytes changed. " if others else ""
    dangerous = sorted({pickle.file for pickle in refused if pickle.is_dangerous})
    warning = f" {', '.join(dangerous)} can run any program." if dangerous else ""
    entries = ", ".join(f"{name}@sha256:{digests[name]}" for name in names)
    where = "archive.yaml" if trust.place == "archive.yaml" else f"deployment.yaml, under models: {trust.model}:"
    unread = f"Trust in deployment.yaml was not read: {trust.unread}. " if trust.unread else ""
    return (
        f"{unread}{changed}Reading such a file runs code.{warning} If you know where these bytes come from, trust them"
        f" in {where}\n         trust: [{entries}]"
    )


def _unused(trust: Trust, scan: Scan) -> Iterable[str]:
    """Why entries trust nothing in this archive."""
    for name in dict.fromkeys(split_trust(entry)[0] for entry in trust.entries):
        if name not in scan.files:
            yield f"trust names {name}, and the archive has no such file"
        elif name not in scan.digests:
            yield f"trust names {name}, which holds no pickle that needs it"
