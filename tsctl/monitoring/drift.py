"""Follows the drift of served versions: reads new records into the state of a watch, which it keeps between runs.

Invariant: one process at a time reads a version's new records, and each record counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path

from tsctl.archive.container import REFERENCE, open_archive
from tsctl.archive.inspect import read_facts, read_references
from tsctl.archive.store import find_archive, list_archives
from tsctl.config.project import Project
from tsctl.drift.reference import Reference
from tsctl.drift.state import WatchState, begin, from_json, to_json
from tsctl.drift.window import FeatureDrift, compare_window
from tsctl.errors import AnalysisError, ArchiveError, SpecError
from tsctl.host.files import make_folder, write_secret
from tsctl.host.locks import exclusive
from tsctl.records.database import LATE_S, Place
from tsctl.records.drift import count_parts, first_record_s, recorded_versions, unknown_features
from tsctl.records.pairs import WAIT_S

logger = logging.getLogger(__name__)

#: Seconds after which all records of a time are written: the thread that writes them has stable answer again for some
#: seconds meanwhile, where a shadow gets copies. Those of other machines come with their segments.
SETTLED_S = WAIT_S
#: A watch that begins takes the records of so many seconds before.
FIRST_S = 86_400.0
#: Items are read into the watch by parts of this length, and of longer ones where there are more than MOST_PARTS.
PART_S, MOST_PARTS = 60.0, 200
LOCK_WAIT_S = 30.0


@dataclass(frozen=True)
class Subject:
    """One version, and what its archive says of drift.

    Args:
        key: digest of the references.
        records: share of the requests that are recorded; 0: none.
    """

    model: str
    version: str
    references: Mapping[str, Reference]
    key: str
    records: float

    @property
    def name(self) -> str:
        return f"{self.model} {self.version}"

    def require_followed(self) -> None:
        """Check that there is something to compare.

        Raises:
            ArchiveError: its archive has no reference, or asks for no records.
        """
        if not self.references:
            raise ArchiveError(
                f"the archive of {self.name} has no reference, so there is nothing to compare its records with",
                f"Name reference data in archive.yaml, 'reference: FILE', and run 'tsctl archive build {self.model}'.",
            )
        if not self.records:
            raise ArchiveError(
                f"{self.name} records nothing, so its drift is not known",
                f"Write 'records: {{share: 0.01}}' into its archive.yaml, run 'tsctl archive build {self.model}',"
                " and roll the version out again.",
            )


@dataclass(frozen=True)
class DriftReport:
    """The drift of one version.

    Args:
        begin_s: of the window, in seconds since 1970.
        items: answered items of the window that were recorded.
        features: the most drifted first.
        counts: of the window, by feature.
        unknown: features of the records that have no reference.
        state: of the watch.
    """

    subject: Subject
    begin_s: float
    end_s: float
    items: int
    features: tuple[FeatureDrift, ...]
    counts: Mapping[str, Sequence[int]]
    unknown: tuple[str, ...]
    state: WatchState


def open_subject(project: Project, model: str, version: str, archive: str | None = None) -> Subject:
    """The version, with the references of its current archive.

    Args:
        archive: the version whose archive it serves; None: the one of its own name.

    Raises:
        ArchiveError: the store has no archive of it, or the archive cannot be read.
    """
    return subject_of(find_archive(project, model, archive or version).path, model, version)


def subject_of(path: Path, model: str, version: str) -> Subject:
    """The version, with the references of the archive in this file.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    with open_archive(path) as opened:
        serving = read_facts(opened).serving
        references = read_references(opened)
        key = sha256(opened.read(REFERENCE)).hexdigest() if references else ""
    return Subject(model, version, references, key, serving.records.share if serving.records else 0.0)


def chosen_versions(project: Project, places: Sequence[Place], name: str) -> list[Subject]:
    """The version of MODEL:VERSION, or all versions of MODEL that have records and can be followed.

    Raises:
        ArchiveError: the version cannot be followed, or none of the model can; the reason of the first.
        AnalysisError: no record of the model is there.
    """
    model, _, version = name.partition(":")
    if version:
        subject = open_subject(project, model, version)
        subject.require_followed()
        return [subject]
    recorded = recorded_versions(places, model)
    found: list[Subject] = []
    refused: list[ArchiveError] = []
    for each in recorded:
        try:
            subject = open_subject(project, model, each)
            subject.require_followed()
            found.append(subject)
        except ArchiveError as error:
            refused.append(error)
            logger.warning("%s", error.message)
    if not recorded:
        _require_any_archive(project, model)
        raise AnalysisError(f"there is no record of {model} in {_shown(places)}", NO_RECORD_HINT)
    if not found:
        raise refused[0]
    return found


#: What to do where records are missing.
NO_RECORD_HINT = (
    "A version records if its archive.yaml has 'records: {share: 0.01}' and it gets requests; 'tsctl records stats'"
    " counts them."
)


def follow(
    project: Project, places: Sequence[Place], subject: Subject, budget_s: float, now_s: float, is_shared: bool = False
) -> WatchState:
    """Read the records that came since the last call into the state of the version's watch, and keep it.

    Args:
        budget_s: expected seconds between false alarms.
        is_shared: the records are not those of this machine's nodes alone; each set of places has a state of its own.

    Raises:
        ConflictError: another process reads them.
        AnalysisError: records cannot be read.
    """
    path = _state_path(project, places, subject, is_shared)
    make_folder(path.parent)
    with _alone(path, subject):
        state = _read(path, subject, budget_s)
        settled_s = LATE_S if is_shared else SETTLED_S
        state = _advanced(places, subject, state, budget_s, now_s - settled_s)
        write_secret(path, to_json(state))
        return state


def accept(
    project: Project, places: Sequence[Place], subject: Subject, budget_s: float, is_shared: bool = False
) -> WatchState:
    """End the alarm of a change that is accepted: what came since the watch began belongs to its references.

    Raises:
        AnalysisError: the version is not watched.
    """
    with _watched(project, places, subject, is_shared) as path:
        state = _read(path, subject, budget_s)
        if state is None:
            raise AnalysisError(
                f"{subject.name} was watched with another reference or budget",
                f"Run 'tsctl drift watch {subject.model}:{subject.version}' to begin with this one.",
            )
        state = state.accepted()
        write_secret(path, to_json(state))
        return state


def forget(
    project: Project, places: Sequence[Place], subject: Subject, budget_s: float, now_s: float, is_shared: bool = False
) -> WatchState:
    """Begin the watch again with the references of the archive, after a change that is over.

    Raises:
        AnalysisError: the version is not watched.
    """
    with _watched(project, places, subject, is_shared) as path:
        state = begin(subject.key, subject.references, budget_s, now_s)
        write_secret(path, to_json(state))
        return state


def report(places: Sequence[Place], subject: Subject, state: WatchState, begin_s: float, end_s: float) -> DriftReport:
    """Compare a window of records with the references.

    Raises:
        AnalysisError: no answered item was recorded in the window.
    """
    parts = count_parts(places, subject.model, subject.version, subject.references, begin_s, end_s)
    if not parts:
        last = recorded_versions(places, subject.model).get(subject.version)
        when = f"the last one is {(end_s - last) / 3600:.1f} h old" if last is not None else "there are none at all"
        hint = (
            f"Ask for a longer window, --hours {ceil((end_s - last) / 3600)}." if last is not None else NO_RECORD_HINT
        )
        raise AnalysisError(
            f"no record of an answer of {subject.name} is from the last {(end_s - begin_s) / 3600:g} h in"
            f" {_shown(places)}: {when}",
            hint,
        )
    [part] = parts
    features = compare_window(subject.references, part.counts)
    unknown = unknown_features(places, subject.model, subject.version, subject.references, begin_s, end_s)
    ordered = tuple(sorted(features, key=lambda each: (not each.is_drift, each.psi_noise - each.psi, each.feature)))
    return DriftReport(subject, begin_s, end_s, part.items, ordered, part.counts, tuple(unknown), state)


def _advanced(
    places: Sequence[Place], subject: Subject, state: WatchState | None, budget_s: float, until_s: float
) -> WatchState:
    if state is None:
        first = first_record_s(places, subject.model, subject.version, until_s - FIRST_S)
        at_s = until_s if first is None else min(first, until_s)
        state = begin(subject.key, subject.references, budget_s, at_s)
    begin_s = state.read_until_s
    if until_s <= begin_s:
        return state
    number = min(MOST_PARTS, ceil((until_s - begin_s) / PART_S))
    for part in count_parts(places, subject.model, subject.version, subject.references, begin_s, until_s, number):
        state = state.seen(part.begin_s, part.end_s, part.items, part.counts)
    return state.read_until(until_s)


def _read(path: Path, subject: Subject, budget_s: float) -> WatchState | None:
    """The kept state; None where there is none for these references and this budget."""
    try:
        return from_json(path.read_text(encoding="utf-8"), subject.key, subject.references, budget_s)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is damaged, and the watch of %s begins again: %s", path, subject.name, error)
        return None


@contextmanager
def _alone(path: Path, subject: Subject) -> Iterator[None]:
    """No other process reads records into the state, or changes it."""
    with exclusive(path.with_suffix(".lock"), f"the drift of {subject.name}", LOCK_WAIT_S):
        yield


@contextmanager
def _watched(project: Project, places: Sequence[Place], subject: Subject, is_shared: bool) -> Iterator[Path]:
    """The state of a version that is watched, which no other process changes in the block."""
    path = _state_path(project, places, subject, is_shared)
    _require_watched(path, subject)
    with _alone(path, subject):
        yield path


def _require_watched(path: Path, subject: Subject) -> None:
    if not path.is_file():
        raise AnalysisError(
            f"{subject.name} is not watched here", f"Run 'tsctl drift watch {subject.model}:{subject.version}' first."
        )


def _state_path(project: Project, places: Sequence[Place], subject: Subject, is_shared: bool) -> Path:
    addresses = "\n".join(sorted(place.address for place in places))
    of_places = f"@{sha256(addresses.encode()).hexdigest()[:12]}" if is_shared else ""
    return project.state / "drift" / subject.model / f"{subject.version}{of_places}.json"


def _require_any_archive(project: Project, model: str) -> None:
    models = sorted({archive.model for archive in list_archives(project)})
    if model not in models:
        raise SpecError(f"no model {model} in the store", f"There are: {', '.join(models) or 'none'}.")


def _shown(places: Sequence[Place]) -> str:
    return ", ".join(place.name for place in places)
