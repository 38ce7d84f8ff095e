"""Finds an archive as people name it: a model, a model and a version, or a file."""

from __future__ import annotations

from pathlib import Path

from tsctl.archive.build import build_versions, read_archive_folders, select_versions
from tsctl.archive.store import find_archive, list_archives, require_readable
from tsctl.config.project import Project, find_project
from tsctl.errors import ArchiveError
from tsctl.host.progress import Progress
from tsctl.mistakes import suggestion


def archive_of_name(project: Project, name: str, progress: Progress) -> Path:
    """The archive of MODEL[:VERSION], built first where an archive.yaml names it; without a version the first.

    Raises:
        SpecError: it has no such version.
        ArchiveError: there is no such model, it cannot be built, or is not in the store.
    """
    found = _stored_or_name(project, name)
    if isinstance(found, Path):
        return found
    [made] = build_versions(project, [found], progress)
    return made.archive.path


def _stored_or_name(project: Project, name: str) -> Path | str:
    """The archive in the store, or MODEL:VERSION of the one that an archive.yaml names."""
    model, _, version = name.partition(":")
    folders = read_archive_folders(project)
    stored = [archive.version for archive in list_archives(project) if archive.model == model]
    built = list(folders[model][1].versions) if model in folders else []
    if not built and not stored:
        known = {*folders, *(archive.model for archive in list_archives(project))}
        raise ArchiveError(
            f"there is no model {model}{suggestion(model, known)}",
            "A new one begins with: tsctl init. An archive that was made elsewhere: tsctl archive add FILE.mar",
        )
    if not built or (version in stored and version not in built):
        return find_archive(project, model, version or stored[0]).path
    chosen = f"{model}:{version or built[0]}"
    select_versions(project, [chosen])
    return chosen


def require_archive(name: str) -> None:
    """Check that `file_of_name` finds this name, and build nothing.

    Raises:
        SpecError, ArchiveError: as of `file_of_name`.
    """
    if name.endswith(".mar"):
        require_readable(Path(name))
    else:
        _stored_or_name(find_project(), name)


def file_of_name(name: str, progress: Progress) -> Path:
    """The file FILE.mar, else the archive of MODEL[:VERSION] in the project of the working folder.

    Raises:
        SpecError: the model has no such version.
        ArchiveError: it cannot be built or read, is not in the store, or has names that fit into no URL.
    """
    if not name.endswith(".mar"):
        return archive_of_name(find_project(), name, progress)
    require_readable(Path(name))
    return Path(name)
