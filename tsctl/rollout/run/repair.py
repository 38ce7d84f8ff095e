"""Mends the journals of a model: keeps every entry that can be read, and the damaged file beside it.

Invariant: a rollout whose entries are lost is never judged again. If it had not ended, it can only be rolled back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import AnalysisError
from tsctl.host.person import person
from tsctl.rollout.decide.events import Ended, Entry, Outcome, Started
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.interventions import Repaired
from tsctl.rollout.run.hold import held
from tsctl.rollout.run.journal_files import journals
from tsctl.rollout.run.journal_lines import (
    DamagedJournal,
    LaterJournal,
    content_of,
    parse_line,
    read,
    whole_bytes,
    write_entries,
)


@dataclass(frozen=True)
class RepairedJournal:
    """One journal that was damaged."""

    id: str
    lost: int  # lines
    kept_as: Path  # the damaged file
    outcome: Outcome | None  # None: the rollout has not ended
    is_readable: bool  # False: without its start, nothing of it is left


def repair(project: Project, model: str) -> list[RepairedJournal]:
    """Mend every damaged journal of the model; what was done, the oldest journal first.

    Raises:
        ConflictError: a process runs a rollout of the model.
        LaterJournal: no journal is damaged, and one is of a later version.
        DamagedJournal: a file cannot be opened.
        AnalysisError: the model never had a rollout.
    """
    paths = journals(project, model)
    if not paths:
        raise AnalysisError(f"there is no rollout of {model}", "See 'tsctl rollout history'.")
    repaired: list[RepairedJournal] = []
    later: list[LaterJournal] = []
    with held(project, model):
        for path in paths:
            try:
                repaired += _repair(path, path == paths[-1])
            except LaterJournal as error:
                later.append(error)
    if later and not repaired:
        raise later[0]
    return repaired


def _repair(path: Path, is_last: bool) -> list[RepairedJournal]:
    """Mend a journal; nothing where it is sound."""
    if _is_sound(path):
        return []
    content = content_of(path)
    lines = content[: whole_bytes(content)].splitlines()
    entries = _readable(path, lines)
    lost = len(lines) - len(entries)
    kept_as = next(name for n in count(1) if not (name := path.with_suffix(f".damaged-{n}")).exists())
    shutil.copy2(path, kept_as)
    if not entries:
        path.unlink()
        return [RepairedJournal(path.stem, lost, kept_as, None, is_readable=False)]
    now = round(time.time(), 3)
    entries.append(Entry(len(entries), now, Repaired(lost, person())))
    if fold(entries).outcome is None and not is_last:  # a later rollout began, so it had ended
        entries.append(Entry(len(entries), now, Ended(Outcome.ABORTED, "the entry of its end is lost")))
    write_entries(path, entries)
    return [RepairedJournal(path.stem, lost, kept_as, fold(entries).outcome, is_readable=True)]


def _is_sound(path: Path) -> bool:
    try:
        read(path)
    except DamagedJournal:
        return False
    return True


def _readable(path: Path, lines: Sequence[bytes]) -> list[Entry]:
    """The entries of the lines that can be read, numbered anew; none where the first one is not the start."""
    entries: list[Entry] = []
    last = -1
    for line in lines:
        try:
            entry = parse_line(path, line)
        except ValueError:  # counted as lost
            continue
        if entry.seq <= last or (not entries and not isinstance(entry.event, Started)):
            continue
        last = entry.seq
        entries.append(replace(entry, seq=len(entries)))
    return entries
