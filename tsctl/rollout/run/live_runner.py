"""A runner with the live effects, evidence, health and operator of its rollout."""

from __future__ import annotations

from tsctl.archive.asked import Asker
from tsctl.archive.comparator import comparator_in_store
from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.errors import AnalysisError
from tsctl.gateway.state import Gateway
from tsctl.host.progress import Note
from tsctl.records.places import labels_folder, places_of, shared_address
from tsctl.rollout.decide.events import Outcome, Started
from tsctl.rollout.decide.fold import fold, start_of
from tsctl.rollout.evidence.labels import LabelReader
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.pairs import RecordedPairs
from tsctl.rollout.evidence.rate import Measured
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.rollout.evidence.source import EnvoyCounters, open_source
from tsctl.rollout.run.commands import LiveOperator
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.health import LiveHealth
from tsctl.rollout.run.hold import commands_of
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import journals
from tsctl.rollout.run.journal_lines import read
from tsctl.rollout.run.live_gateway import LiveGateway
from tsctl.rollout.run.runner import Runner


def live_runner(gateway: Gateway, journal: Journal, note: Note, measured: Measured | None = None) -> Runner:
    """The runner of a journal that begins with its start."""
    start, project = start_of(journal.entries), gateway.project
    live, shared = LiveGateway(gateway), shared_address(project, gateway.deployment)
    # its file may be gone: the way back does not need it
    archive = archive_of(project.store / start.file)
    return Runner(
        journal,
        LiveEffects(live, archive, start.workers, note, start.trust_pickles, _replaced(project, start, note)),
        LiveEvidence(
            # the source with which the rollout started: another one counts from another moment on
            source=open_source(start.policy, gateway.admin),
            envoy=EnvoyCounters(gateway.admin),
            log=RequestLog(gateway.files.access_log, start.cursor),
            labelled=LabelReader(labels_folder(project), lambda: places_of(gateway.nodes(), shared)),
            measured=measured,
        ),
        LiveHealth(live, archive),
        LiveOperator(live, start.model, commands_of(project, start.model)),
        RecordedPairs(
            lambda: places_of(live.nodes(live.now().deployment.nodes), None),
            lambda: comparator_in_store(project, start.model, _archive_of(live, start.model, start.stable)),
            Asker(project).ready,
        ),
        note,
    )


def _archive_of(live: LiveGateway, model: str, version: str) -> str:
    """The version whose archive it serves."""
    target = live.now().deployment.models.get(model)
    return version if target is None else target.archive(version)


def _replaced(project: Project, start: Started, note: Note) -> tuple[str, ...]:
    """Versions of the model that its other rollouts replaced, the last one first.

    A journal that cannot be read is passed over: what it replaced stays registered.
    """
    replaced = []
    for path in reversed(journals(project, start.model)):
        try:
            entries = read(path) if path.stem != start.id else []
        except AnalysisError as error:
            note(f"passed over: {error.summary}")
            continue
        if entries and (state := fold(entries)).outcome is Outcome.PROMOTED:
            replaced.append(state.stable)
    return tuple(dict.fromkeys(replaced))
