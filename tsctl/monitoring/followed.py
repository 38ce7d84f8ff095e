"""Follows the last rollout of each model by its journal, of which only new lines are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import AnalysisError
from tsctl.rollout.decide.fold import after
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.hold import is_running
from tsctl.rollout.run.journal_files import journals
from tsctl.rollout.run.journal_lines import parse


@dataclass(frozen=True)
class FollowedRollout:
    """A model's last rollout."""

    state: State
    is_running: bool  # whether a process runs it


@dataclass(frozen=True)
class _Journal:
    """What was read of a journal: so many bytes and lines, of the file with this inode."""

    path: Path
    inode: int = 0
    size: int = 0
    lines: int = 0
    state: State | None = None


class FollowedRollouts:
    """The last rollout of every model of a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._journals: dict[str, _Journal] = {}

    def read(self) -> Iterator[FollowedRollout]:
        """Each as it is now; those that can be read come before the error of one that cannot.

        Raises:
            AnalysisError: a journal is damaged, or a later tsctl wrote it.
        """
        errors = []
        newest = {path.parent.name: path for path in journals(self._project)}  # the oldest come first
        for model, path in newest.items():
            try:
                journal = self._journals[model] = _read_on(path, self._journals.get(model))
            except AnalysisError as error:
                errors.append(error)
                continue
            if journal.state is not None:
                yield FollowedRollout(journal.state, is_running(self._project, model))
        if errors:
            raise errors[0]


def _read_on(path: Path, before: _Journal | None) -> _Journal:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        if before is None or (before.path, before.inode) != (path, stat.st_ino) or stat.st_size < before.size:
            before = _Journal(path, stat.st_ino)  # another file, or one that was repaired
        file.seek(before.size)
        entries, added = parse(path, file.read(), before.lines)
    state = before.state
    for entry in entries:
        state = after(state, entry)
    return _Journal(path, before.inode, before.size + added, before.lines + len(entries), state)
