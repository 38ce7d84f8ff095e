"""The drift of the versions that deployment.yaml names, as values of the exporter's page.

Records are read once in FOLLOW_S at most; scrapes in between get the same values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import exp
from pathlib import Path
from typing import NamedTuple

from tsctl.archive.store import list_archives
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.drift.state import WatchState
from tsctl.drift.window import compare_window
from tsctl.monitoring.drift import Subject, follow, subject_of
from tsctl.nodes.engines import open_nodes
from tsctl.records.database import Place

#: Seconds between two readings of records.
FOLLOW_S = 60.0
#: The evidence is cut off here, so that a plot of it can be read.
MOST_EVIDENCE = 1000.0


class DriftValue(NamedTuple):
    """One sample: the metric's name after `tsctl_drift_`, the value, and the labels' values in their order."""

    name: str
    value: float
    labels: tuple[str, ...]


class FollowedDrift:
    """The drift of a project's versions, followed over many scrapes.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, project: Project, clock: Callable[[], float] = time.time) -> None:
        self._project = project
        self._clock = clock
        self._read_at = float("-inf")
        self._values: list[DriftValue] = []
        self._subjects: dict[tuple[Path, str, str], Subject] = {}

    def read(self, deployment: DeploymentSpec) -> list[DriftValue]:
        """The present values.

        Raises:
            TsctlError: an archive or records cannot be read; the next call tries again.
        """
        now = self._clock()
        if now - self._read_at >= FOLLOW_S:
            self._values = list(self._followed(deployment, now))
            self._read_at = now
        return self._values

    def _followed(self, deployment: DeploymentSpec, now: float) -> Iterator[DriftValue]:
        subjects = followed_subjects(self._project, deployment, self._subjects)
        if not subjects:
            return
        nodes = [node for node in open_nodes(self._project, deployment) if node.is_here]
        places = [Place(node.name, str(node.records_folder.resolve())) for node in nodes]
        budget_s = deployment.monitoring.drift_days * 86_400.0
        for subject in subjects if places else ():
            yield from drift_values(subject, follow(self._project, places, subject, budget_s, now))


def drift_values(subject: Subject, state: WatchState) -> Iterator[DriftValue]:
    """The samples of one version."""
    version, day = (subject.model, subject.version), state.last_day()
    yield DriftValue("items", day.items, version)
    yield DriftValue("evidence_ratio", min(exp(min(state.watch.log_statistic, 700.0)), MOST_EVIDENCE), version)
    causes = {name for name, _ in state.alarm.causes} if state.alarm else set()
    for name in subject.references:
        yield DriftValue("alarm", name in causes, (*version, name))
    for feature in compare_window(subject.references, day.counts):
        yield DriftValue("psi", feature.psi, (*version, feature.feature))
        yield DriftValue("psi_noise", feature.psi_noise, (*version, feature.feature))


def followed_subjects(
    project: Project, deployment: DeploymentSpec, known: dict[tuple[Path, str, str], Subject] | None = None
) -> list[Subject]:
    """The versions of deployment.yaml whose archive has both a reference and records; archives that are missing are
    left out.

    Args:
        known: of earlier calls, by archive; it is changed.
    """
    known = {} if known is None else known
    current = {archive.key: archive.path for archive in list_archives(project) if archive.is_current}
    found = {}
    for model, target in deployment.models.items():
        for version in target.versions:
            path = current.get((model, target.archive(version)))
            if path is not None:
                place = (path, model, version)
                found[place] = known.get(place) or subject_of(path, model, version)
    known.clear()
    known |= found
    return [subject for subject in found.values() if subject.references and subject.records]
