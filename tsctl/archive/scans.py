"""Remembers what the scan of an archive in the store found, so that a plan reads each archive once."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tsctl.archive.container import digest_of, open_archive, unpack
from tsctl.archive.pickle_containers import HEAD_BYTES
from tsctl.archive.pickles import is_candidate
from tsctl.archive.store import StoredArchive
from tsctl.archive.trial import scan_pickles
from tsctl.archive.trust import Scan
from tsctl.archive.written import scratch
from tsctl.config.project import Project
from tsctl.host.files import make_folder, write_document

#: Changes with what is looked into and judged: older results do not count then.
RULES = 1
_SCAN = TypeAdapter(Scan)


def scan_of(project: Project, archive: StoredArchive) -> Scan:
    """The unsafe pickles of an archive in the store, from an earlier scan of the same file where there is one.

    Raises:
        ArchiveError: it cannot be read.
    """
    status = archive.path.stat()
    key = {"rules": RULES, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    kept = project.state / "scans" / f"{archive.path.name}.json"
    try:
        content = json.loads(kept.read_bytes())
        if content.pop("key") == key:
            return _SCAN.validate_python(content)
    except (OSError, ValueError, KeyError, AttributeError, ValidationError):
        pass  # there is none, or it is of older rules, or damaged: the archive is read again
    scan = _scan(archive.path)
    make_folder(kept.parent)
    write_document(kept, {"key": key, **asdict(scan)})
    return scan


def _scan(path: Path) -> Scan:
    with open_archive(path) as archive:
        if not any(_may_hold(archive, info) for info in archive.infolist()):
            return Scan(tuple(info.filename for info in archive.infolist()), (), {})
        names = tuple(archive.namelist())
    with scratch("tsctl-scan-") as folder:
        unpack(path, folder)
        unsafe = scan_pickles(folder)
        files = {pickle.file for pickle in unsafe if (folder / pickle.file).is_file()}
        return Scan(names, tuple(unsafe), {name: digest_of(folder / name) for name in sorted(files)})


def _may_hold(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    with archive.open(info) as file:
        return not info.is_dir() and is_candidate(info.filename, file.read(HEAD_BYTES))
