"""Remembers which bytes each version was served from, so that a version string never comes to mean others.

Invariant: an entry is made once a version was READY, and is never changed or removed by tsctl. The file lies in the
state of whoever operates; one that is lost is made again from what nodes serve.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tsctl.archive.store import parse_name
from tsctl.errors import SpecError
from tsctl.locks import exclusive
from tsctl.project import Project

LOCK_S = 10.0


def recorded(project: Project) -> dict[str, str]:
    """The 12 digits of the bytes that each `model:version` was served from.

    Raises:
        SpecError: the file is damaged.
    """
    path = _path(project)
    try:
        return {str(name): str(digest) for name, digest in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise SpecError(
            f"{project.relative(path)} is damaged: {error}", "Remove it; it is made again from what the nodes serve."
        ) from error


def remember(project: Project, served: Mapping[str, str]) -> None:
    """Each version that was not in the record is there now; one that was stays as it was.

    Args:
        served: file name of the archive by `model:version`; one that the store did not name is passed over.

    Raises:
        ConflictError: another tsctl writes it, and does not end.
    """
    named = {name: parse_name(archive) for name, archive in served.items()}
    found = {name: parsed[2] for name, parsed in named.items() if parsed is not None}
    if not found.keys() - recorded(project).keys():
        return
    path = _path(project)
    with exclusive(path.with_name("lock"), "the record of served versions", LOCK_S):
        content = {**found, **recorded(project)}
        written = path.with_name(f".{path.name}.{os.getpid()}")
        with written.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)


def _path(project: Project) -> Path:
    return project.state / "releases" / "served.json"
