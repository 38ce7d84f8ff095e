"""Which journals of rollouts there are, and where each lies."""

from __future__ import annotations

import re
import time
from calendar import timegm
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError
from tsctl.rollout.decide.events import Ended
from tsctl.rollout.decide.interventions import Reopened
from tsctl.rollout.run.journal_lines import (
    content_of,
    read,
    whole_bytes,
)
from tsctl.rollout.run.shared import shared_journals

SUFFIX = ".jsonl"


#: An id begins with the second in which it was made, in UTC.
MOMENT = "%Y%m%dT%H%M%SZ"


_ID = re.compile(r"\d{8}T\d{6}Z-.+")


def folder(project: Project, model: str) -> Path:
    """Where the journals of a model lie."""
    return project.state / "rollouts" / model


def lock_of(project: Project, model: str) -> Path:
    """The lock that the process of this machine holds which runs the model's rollout."""
    return folder(project, model) / "lock"


def pull(project: Project, model: str | None = None) -> None:
    """The folder has what the place has, of one model or of all; nothing where there is no place."""
    shared = shared_journals(project)
    if shared is not None:
        for name in shared.models() if model is None else [model]:
            shared.pull(name, folder(project, name))


def journals(project: Project, model: str | None = None) -> list[Path]:
    """Every journal, of one model or of all, the oldest first; files that are not named so are none.

    Where machines share a place, the files are copies of what is there now; raises PlaceUnreachable and PlaceUnusable.
    """
    pull(project, model)
    named = f"{model}/*{SUFFIX}" if model is not None else f"*/*{SUFFIX}"
    paths = [path for path in (project.state / "rollouts").glob(named) if _ID.fullmatch(path.stem)]
    return sorted(paths, key=lambda path: (path.stem, path.parent.name))


def unfinished(project: Project, model: str) -> str | None:
    """The id of the model's rollout that has not ended; None where there is none.

    Raises:
        AnalysisError: its journal is damaged, or of a later version.
    """
    paths = journals(project, model)
    if not paths:
        return None
    marks = [e.event for e in read(paths[-1]) if not e.seq or isinstance(e.event, Ended | Reopened)]
    return paths[-1].stem if marks and not isinstance(marks[-1], Ended) else None


def models_with_journals(project: Project) -> list[str]:
    """The models that ever had a rollout."""
    return sorted({path.parent.name for path in journals(project)})


def find_journal(project: Project, model: str, id: str | None = None) -> Path:
    """The journal of this rollout, or of the model's last one.

    Args:
        id: whole, or an unambiguous beginning.

    Raises:
        AnalysisError: there is none, or several ids begin so.
    """
    paths = [path for path in journals(project, model) if whole_bytes(content_of(path))]  # else nothing was begun
    if not paths:
        raise AnalysisError(f"there is no rollout of {model}", f"Begin one: tsctl rollout start {model} VERSION")
    if id is None:
        return paths[-1]
    named = [path for path in paths if path.stem == id] or [path for path in paths if path.stem.startswith(id)]
    if len(named) != 1:
        raise AnalysisError(
            f"{len(named) or 'no'} rollouts of {model} begin with {id}", f"See 'tsctl rollout history {model}'."
        )
    return named[0]


def require_none(project: Project, model: str) -> None:
    """No rollout of the model is under way.

    Raises:
        ConflictError: one has not ended.
    """
    if (unfinished_id := unfinished(project, model)) is not None:
        raise ConflictError(
            f"the rollout {unfinished_id} of {model} has not ended, and decides on its weights",
            f"'tsctl rollout resume {model}' continues it, 'abort' rolls it back, 'promote' promotes it at once.",
        )


def new_id(version: str, now: float) -> str:
    """An id that sorts by time: `20261125T093000Z-2.0`."""
    return time.strftime(MOMENT, time.gmtime(now)) + f"-{version}"


def new_path(project: Project, model: str, version: str, now: float) -> Path:
    """A journal that does not exist yet; its id is later than every other one of the model, whatever the clock says."""
    others = journals(project, model)
    if others:
        last = timegm(time.strptime(others[-1].stem.partition("-")[0], MOMENT))
        now = max(now, last + 1)
    return folder(project, model) / f"{new_id(version, now)}{SUFFIX}"
