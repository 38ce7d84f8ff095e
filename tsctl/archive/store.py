"""Names and finds the archives in `archives/store`; the store is flat, and a file in it never changes.

An archive's name carries the first 12 digits of its digest, so two builds of one version lie side by side. The current
one is named in `current.json`; without that file it is the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tsctl.config.project import Project
from tsctl.config.spec import ModelName, ModelVersion
from tsctl.errors import ArchiveError
from tsctl.host.locks import exclusive

DIGEST_DIGITS = 12
_NAME = re.compile(
    rf"^(?P<model>[A-Za-z0-9][A-Za-z0-9_\-.]*)-(?P<version>[A-Za-z0-9][A-Za-z0-9_.]*)"
    rf"-(?P<digest>[0-9a-f]{{{DIGEST_DIGITS}}})\.mar$"
)
#: Raised by reading a damaged zip file; one flipped byte can cause any of them.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


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


def digest_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if path.resolve().parent == project.store.resolve() and parse_name(path.name):
        return archive_of(path)
    model, version = names_inside(path)
    digest = digest_of(path)
    target = project.store / store_name(model, version, digest)
    if not target.is_file():
        project.store.mkdir(parents=True, exist_ok=True)
        copying = project.store / f".copy.{os.getpid()}"
        shutil.copyfile(path, copying)
        copying.replace(target)
    archive = archive_of(target)
    make_current(project, archive)
    return archive


def names_inside(path: Path) -> tuple[str, str]:
    """The model and version that an archive's manifest names.

    Raises:
        ArchiveError: it is no archive, or a name does not fit into a file name or TorchServe's URLs.
    """
    try:
        with zipfile.ZipFile(path) as content:
            model = json.loads(content.read("MAR-INF/MANIFEST.json"))["model"]
        names = str(model["modelName"]), str(model.get("modelVersion") or "1.0")
    except FileNotFoundError:
        raise ArchiveError(f"no such file: {path}") from None
    except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path} is no archive: {error}", "Make it with torch-model-archiver or tsctl.") from error
    wrong = name_mistake(*names)
    if wrong:
        raise ArchiveError(f"{path}: {wrong}", "Make the archive again under another name or version.")
    return names


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
