"""Names and finds the archives of a project, whose files never change.

An archive's name carries the first 12 digits of its digest. The current build of each version lies in `archives/store`,
which a plain TorchServe loads whole, so no older build and nothing half-written may lie there. `archives/store/.builds`
is the model store of tsctl's nodes: the older builds, and a link to each current one. A file that is copied into
`archives/store` is taken in as the current build of its version, if it is what its name says; one of another name, such
as resnet-18.mar, gets its name in the store then.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from tsctl.archive.container import Content, digest_of, write_entries
from tsctl.archive.inspect import facts_of
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import BUILDS, Project
from tsctl.config.spec import ModelName, ModelVersion
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.locks import exclusive
from tsctl.mistakes import expectation

DIGEST_DIGITS = 12
_NAME = re.compile(
    rf"^(?P<model>[A-Za-z0-9][A-Za-z0-9_\-.]*)-(?P<version>[A-Za-z0-9][A-Za-z0-9_.]*)"
    rf"-(?P<digest>[0-9a-f]{{{DIGEST_DIGITS}}})\.mar$"
)


@dataclass(frozen=True)
class StoredArchive:
    """One archive in the store."""

    path: Path
    model: str
    version: str
    digest: str  # the first 12 hex digits of its SHA-256

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.version

    @property
    def is_current(self) -> bool:
        """Whether it is the published build of its version."""
        return self.path.is_symlink() or self.path.parent.name != BUILDS

    def other_build(self, name: str) -> Path:
        """The file of that name in the same store, which need not exist."""
        folder = self.path.parent
        return folder / name if folder.name == BUILDS or (folder / name).is_file() else folder / BUILDS / name


def store_name(model: str, version: str, digest: str) -> str:
    """The file name of an archive; `digest` may be the whole SHA-256."""
    return f"{model}-{version}-{digest[:DIGEST_DIGITS]}.mar"


def parse_name(name: str) -> tuple[str, str, str] | None:
    """Model, version and digest from a file name of the store; None for any other name."""
    match = _NAME.match(name)
    return (match["model"], match["version"], match["digest"]) if match else None


def archive_of(path: Path) -> StoredArchive:
    """The archive in a file of the store.

    Raises:
        ArchiveError: it is not named as the store names archives.
    """
    parsed = parse_name(path.name)
    if parsed is None:
        raise ArchiveError(f"{path.name} is not named <model>-<version>-<digest>.mar, so it is no archive of the store")
    return StoredArchive(path, *parsed)


def list_archives(project: Project) -> list[StoredArchive]:
    """Every archive in the store, by name."""
    copied = [path for path in _unlinked(project) if not _reason_against(path)]
    for path in sorted(copied, key=lambda path: path.stat().st_mtime_ns):
        make_current(project, archive_of(_named(path)))
    files = [path for path in sorted(project.store.glob("*.mar")) if path.is_file() and parse_name(path.name)]
    return [archive_of(project.published / path.name if path.is_symlink() else path) for path in files]


def find_archive(project: Project, model: str, version: str) -> StoredArchive:
    """The current archive of a version; where it was removed, the newest one.

    Raises:
        ArchiveError: none is in the store.
    """
    archives = list_archives(project)
    matching = [archive for archive in archives if (archive.model, archive.version) == (model, version)]
    if not matching:
        there = ", ".join(dict.fromkeys(f"{archive.model} {archive.version}" for archive in archives))
        raise ArchiveError(
            f"no archive of {model} {version} in {project.relative(project.published)}",
            f"There are: {there or 'none'}.{_build_hint(project, model, version)}"
            f"\n       Where deployment.yaml names a store: tsctl archive pull {model}:{version}",
        )
    return newest(matching)


def _build_hint(project: Project, model: str, version: str) -> str:
    """A line with the command that builds the version; empty where none can."""
    try:
        can_build = version in read_archive_spec(project.archives / model / "archive.yaml").versions
    except SpecError:
        return ""
    return f"\n       Build it: tsctl archive build {model}:{version}" if can_build else ""


def newest(builds: Iterable[StoredArchive]) -> StoredArchive:
    """The current one of a version's builds, of which there is at least one; where it was removed, the newest one."""
    return max(builds, key=lambda archive: (archive.is_current, archive.path.stat().st_mtime_ns))


def make_current(project: Project, archive: StoredArchive) -> StoredArchive:
    """Make this the current archive of its version: it is published, and the version's other builds are not."""
    link, published = project.store / archive.path.name, project.published / archive.path.name
    project.store.mkdir(parents=True, exist_ok=True)
    with exclusive(project.published / ".current.lock", "the list of current archives", wait_s=10.0):
        for path in _published(project):
            if path != published and parse_name(path.name) and archive_of(path).key == archive.key:
                path.replace(project.store / path.name)  # over the link to it
        if not link.is_symlink() and link.is_file():
            link.replace(published)
        making = link.with_name(f".{link.name}.{os.getpid()}")
        making.symlink_to(Path("..") / link.name)
        making.replace(link)
    return archive_of(published)


def require_whole(archive: StoredArchive) -> None:
    """Check that the file is what its name says, and that all programs read the same in it.

    Raises:
        ArchiveError: its digest, model or version is another one, or it is no canonical archive.
    """
    if not _is_whole(archive.path, archive.digest):
        raise ArchiveError(
            f"{archive.path.name} is damaged: its digest is not the one in its name",
            f"Build it again, 'tsctl archive build {archive.model}:{archive.version}', or copy it again.",
        )
    if (names := require_readable(archive.path)) != archive.key:
        raise ArchiveError(
            f"{archive.path.name} holds {' '.join(names)}", "Remove it, and import it under its own name."
        )


def strangers(project: Project) -> dict[str, str]:
    """Files in `archives/store` that are not taken in, and the reason; a plain TorchServe loads them all the same."""
    return {path.name: reason for path in _unlinked(project) if (reason := _reason_against(path))}


def _named(path: Path) -> Path:
    """The copied archive under its name in the store."""
    if parse_name(path.name):
        return path
    return path.replace(path.with_name(store_name(*require_readable(path), digest_of(path))))


def _reason_against(path: Path) -> str:
    """Why a copied file is not taken in; one that is still being copied cannot be read."""
    try:
        if parse_name(path.name):
            require_whole(archive_of(path))
        else:
            require_readable(path)
    except ArchiveError as error:
        return error.summary
    return ""


def _unlinked(project: Project) -> list[Path]:
    """Published files to which no link leads: they were copied by hand, or by an older tsctl."""
    return [path for path in _published(project) if not (project.store / path.name).is_symlink()]


def _published(project: Project) -> list[Path]:
    return [path for path in project.published.glob("[!.]*.mar") if path.is_file()]


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and digest_of(path).startswith(digest)


def import_archive(project: Project, path: Path) -> StoredArchive:
    """A .mar file from anywhere as an archive of the store, copied there under the store's naming.

    Raises:
        ArchiveError: it is no archive, or its model's name or version does not fit into a URL and a file name.
    """
    is_inside = path.parent.resolve() in (project.published.resolve(), project.store.resolve())
    if is_inside and parse_name(path.name) and path.is_file():
        require_whole(archive_of(path))
        list_archives(project)  # takes in what was copied
        return make_current(project, archive_of(project.store / path.name))  # an older build comes back
    require_readable(path)
    try:
        with path.open("rb") as source:
            archive = _add(project.store, lambda file: shutil.copyfileobj(source, file), require_readable)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
    return make_current(project, archive)


def require_readable(path: Path) -> tuple[str, str]:
    """Check that an archive can be read, and that all programs read it alike; returns its model and version.

    Raises:
        ArchiveError: it cannot, or its names do not fit into a URL and a file name.
    """
    names = facts_of(path).names
    if wrong := name_mistake(*names):
        raise ArchiveError(f"{path}: {wrong}", "Make the archive again under another name or version.")
    return names


def write_archive(entries: Mapping[str, Content], store: Path, model: str, version: str) -> StoredArchive:
    """Write the entries as an archive into the store; one of the same bytes that is there already is left alone."""
    return _add(store, lambda file: write_entries(entries, file), lambda path: (model, version))


def _add(store: Path, write: Callable[[BinaryIO], None], names_of: Callable[[Path], tuple[str, str]]) -> StoredArchive:
    """Add what `write` writes to the store, named by its digest, and by model and version, which `names_of` reads."""
    store.mkdir(parents=True, exist_ok=True)
    writing = store / f".writing.{os.getpid()}"
    try:
        with os.fdopen(os.open(writing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        digest = digest_of(writing)
        target = store / store_name(*names_of(writing), digest)
        if not _is_whole(target, digest):
            writing.replace(target)
    finally:
        writing.unlink(missing_ok=True)
    return archive_of(target)


def name_mistake(model: str, version: str) -> str:
    """The mistake in the names of a manifest; empty where there is none."""
    for kind, name, rule in (("modelName", model, ModelName), ("modelVersion", version, ModelVersion)):
        try:
            TypeAdapter(rule).validate_python(name)
        except ValidationError as error:
            return f"{kind} {name[:100]!r}: {expectation(error.errors()[0])}"
    return ""
