"""Names and finds the archives in `archives/store`; the store is flat, and a file in it never changes.

An archive's name carries the first 12 digits of its digest, so two builds of one version lie side by side. The current
one is named in `current.json`; without that file it is the newest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from tsctl.archive.container import Content, digest_of, open_archive, write_entries
from tsctl.archive.inspect import read_facts
from tsctl.config.project import Project
from tsctl.config.spec import ModelName, ModelVersion
from tsctl.errors import ArchiveError
from tsctl.host.locks import exclusive

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
    return [archive_of(path) for path in sorted(project.store.glob("*.mar")) if parse_name(path.name)]


def find_archive(project: Project, model: str, version: str) -> StoredArchive:
    """The current archive of a version.

    Raises:
        ArchiveError: none is in the store.
    """
    archives = list_archives(project)
    matching = [archive for archive in archives if (archive.model, archive.version) == (model, version)]
    if not matching:
        there = ", ".join(dict.fromkeys(f"{archive.model} {archive.version}" for archive in archives))
        raise ArchiveError(
            f"no archive of {model} {version} in {project.relative(project.store)}",
            f"There are: {there or 'none'}. Build it: tsctl archive build {model}:{version}",
        )
    current = _current(project).get(f"{model}:{version}")
    named = next((archive for archive in matching if archive.digest == current), None)
    return named or max(matching, key=lambda archive: archive.path.stat().st_mtime_ns)


def make_current(project: Project, archive: StoredArchive) -> None:
    """Make this the current archive of its version."""
    path = project.store / "current.json"
    with exclusive(project.store / ".current.lock", "the list of current archives", wait_s=10.0):
        content = {**_current(project), f"{archive.model}:{archive.version}": archive.digest}
        written = path.with_name(f".current.{os.getpid()}")
        written.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written.replace(path)


def import_archive(project: Project, path: Path) -> StoredArchive:
    """A .mar file from anywhere as an archive of the store, copied there under the store's naming.

    Raises:
        ArchiveError: it is no archive, or its model's name or version does not fit into a URL and a file name.
    """
    require_readable(path)
    if path.resolve().parent == project.store.resolve() and parse_name(path.name):
        return archive_of(path)
    try:
        with path.open("rb") as source:
            archive = _add(project.store, lambda file: shutil.copyfileobj(source, file), require_readable)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
    make_current(project, archive)
    return archive


def require_readable(path: Path) -> tuple[str, str]:
    """Check that an archive can be read, and that all programs read it alike; returns its model and version.

    Raises:
        ArchiveError: it cannot, or its names do not fit into a URL and a file name.
    """
    with open_archive(path) as content:
        names = read_facts(content).names
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
        with writing.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        target = store / store_name(*names_of(writing), digest_of(writing))
        if not target.exists():
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
            return f"{kind} {name!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
    return ""


def _current(project: Project) -> dict[str, str]:
    path = project.store / "current.json"
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}  # lost or damaged: the newest archive counts, and the next build writes the file again
