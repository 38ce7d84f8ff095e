"""Records what no node or gateway stores: the bytes that a version was first served from, and the last `apply`.

Invariant: the first bytes of a version stand until a person removes the file. Both files lie in the operator's
`.tsctl`; the next `tsctl apply` writes a lost one again, from what the nodes serve then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tsctl.archive.store import parse_name
from tsctl.config.project import Project
from tsctl.deploy.state import Desired, WantedModel
from tsctl.errors import SpecError
from tsctl.host.files import write_document
from tsctl.host.locks import exclusive

LOCK_S = 10.0
SERVED, APPLIED = "served.json", "applied.json"


def recorded(project: Project) -> dict[str, str]:
    """The 12 digits of the bytes that each `model:version` was served from.

    Raises:
        SpecError: the file is damaged.
    """
    return _read(project, SERVED)


def remember(project: Project, served: Mapping[str, str]) -> None:
    """Adds versions to the record; one that is recorded stays as it was.

    Args:
        served: file name of the archive by `model:version`; a name that is not the store's is ignored.

    Raises:
        ConflictError: another tsctl holds the record for longer than LOCK_S.
    """
    digits = {name: parsed[2] for name, archive in served.items() if (parsed := parse_name(archive))}
    if digits.keys() - recorded(project).keys():
        _update(project, SERVED, lambda: digits | recorded(project))


def remember_applied(project: Project, desired: Desired) -> None:
    """Records the desired state as the one that was applied last; raises as `remember`."""
    content = {model.model: _fingerprint(model) for model in desired.models}
    if content != _read(project, APPLIED):
        _update(project, APPLIED, lambda: content)


def as_applied(project: Project, desired: Desired) -> frozenset[str]:
    """The models whose desired state is the one that was applied last; raises as `recorded`."""
    last = _read(project, APPLIED)
    return frozenset(model.model for model in desired.models if last.get(model.model) == _fingerprint(model))


def _fingerprint(model: WantedModel) -> str:
    """Equal for equal desired states, whatever else lies in the store."""
    versions = sorted(
        (
            replace(v, others=(), recorded=None, impossible={}, problem="", remedy="", is_pulled=False)
            for v in model.versions
        ),
        key=lambda v: v.version,
    )
    desired = (model.default, versions, sorted(model.shares.items()) if model.shares is not None else None)
    return hashlib.sha256(repr(desired).encode()).hexdigest()


def _read(project: Project, name: str) -> dict[str, str]:
    path = _folder(project) / name
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise SpecError(
            f"{project.relative(path)} is damaged: {error}",
            "Remove it; the next 'tsctl apply' writes it again from what the nodes serve.",
        ) from error


def _update(project: Project, name: str, content: Callable[[], dict[str, str]]) -> None:
    with exclusive(_folder(project) / "record.lock", "the record of what was served", LOCK_S):
        write_document(_folder(project) / name, dict(sorted(content().items())))


def _folder(project: Project) -> Path:
    return project.state / "releases"
