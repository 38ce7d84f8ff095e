"""Begins a rollout, or takes up one whose process is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tsctl.archive.asked import Asker
from tsctl.archive.comparator import comparator_in_store
from tsctl.archive.container import digest_of
from tsctl.archive.store import archive_of, find_archive
from tsctl.config.project import Project
from tsctl.control.here import shared_leases, shared_place
from tsctl.control.leases import this_process
from tsctl.errors import AnalysisError, ConflictError
from tsctl.gateway.state import Gateway, as_writer, upstreams_written
from tsctl.host.locks import exclusive, is_held
from tsctl.host.person import person
from tsctl.host.progress import Note
from tsctl.records.database import require
from tsctl.records.places import labels_folder, places_of, shared_address
from tsctl.rollout.decide.events import Command, CommandReceived, Event, Outcome, Reopened, Started
from tsctl.rollout.decide.state import fold, start_of
from tsctl.rollout.evidence.counts import EvidenceQuery, classes_of, cursor_of, together
from tsctl.rollout.evidence.labels import LabelReader
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.pairs import RecordedPairs
from tsctl.rollout.evidence.reader import EnvoyCounters, LiveEvidence, Measured, measure, open_source
from tsctl.rollout.run.commands import LiveOperator, sticky_text
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.health import LiveHealth
from tsctl.rollout.run.journal import Journal, find_journal, journals, lock_of, new_path, require_none
from tsctl.rollout.run.journal_lines import read
from tsctl.rollout.run.live_gateway import LiveGateway
from tsctl.rollout.run.preconditions import (
    counts_before,
    generates_text,
    require_comparable,
    require_counted,
    require_no_weights,
    require_possible,
    require_undivided,
    route_of,
    serving_nodes,
)
from tsctl.rollout.run.runner import Runner
from tsctl.rollout.run.shared import SharedCommands, shared_journals
from tsctl.rollout.run.shared_journal import EntryTaken, SharedJournal

#: A status check may hold the lock for this long.
BRIEF_S = 0.5
#: Entries that a process which was replaced may have written since the journal was read: it is in the middle of one.
LATE_ENTRIES = 3


@contextmanager
def started(
    gateway: Gateway, model: str, version: str, workers: int | None, note: Note, trust_pickles: bool = False
) -> Iterator[Runner]:
    """A new rollout, in the journal and not yet begun; this process holds it while the block runs.

    Raises:
        ConflictError: another rollout of the model has not ended, or the weights were divided by hand.
        ArchiveError: there is no archive of the version.
        GatewayError: the gateway does not run, or has no route for the model.
        SpecError: deployment.yaml sets the weights, or the policy judges labels and DuckDB is not installed.
        AnalysisError: the policy names a Prometheus server, and it does not have the gateway's counts.
    """
    project = gateway.project
    target = gateway.deployment.models.get(model)
    archive = find_archive(project, model, target.archive(version) if target is not None else version)
    with held(project, model, note) as hold:
        require_none(project, model)
        require_no_weights(gateway.deployment, model)
        route = route_of(gateway, model)
        require_undivided(route, version)
        is_text = generates_text(archive)
        policy = gateway.deployment.policy(model).judging(is_text)
        if "labels" in policy.signals:
            require("duckdb")
        require_counted(gateway, model, sticky_text(gateway.deployment, model), is_text)
        parts = counts_before(gateway, policy, model)
        digest = digest_of(archive.path)
        stable_nodes = serving_nodes(gateway, model, route.stable)
        nodes = (target.nodes(version) if target is not None else None) or stable_nodes
        require_possible(gateway, archive, version, nodes)
        if policy.shadow is not None:
            stable = target.archive(route.stable) if target is not None else route.stable
            require_comparable(gateway, route, archive, find_archive(project, model, stable), {*nodes, *stable_nodes})
        LiveOperator(LiveGateway(gateway), model, commands_of(project, model)).forget()
        gateway = _take_over(gateway, hold, model)
        journal = open_journal(project, new_path(project, model, version, time.time()), hold)
        log_end = RequestLog(gateway.files.access_log, {}).mark()
        start = journal.append(
            Started(
                id=journal.id,
                model=model,
                canary=version,
                stable=route.stable,
                archive=digest,
                policy=policy,
                file=archive.path.name,
                workers=workers,
                nodes=nodes,
                stable_nodes=stable_nodes if set(stable_nodes) != set(nodes) else None,
                policy_digest=policy.digest,
                classes=classes_of(together(parts), model, route.stable),
                cursor={**cursor_of(parts, EvidenceQuery(model, route.stable, version)), **log_end},
                sticky=sticky_text(gateway.deployment, model),
                trust_pickles=trust_pickles,
                by=person(),
                is_text=is_text,
            )
        )
        yield _runner(
            gateway, journal, note, measure(EnvoyCounters(gateway.admin), start_of([start]), time.monotonic())
        )


@contextmanager
def resumed(gateway: Gateway, model: str, note: Note, command: Command = Command.RESUME) -> Iterator[Runner]:
    """The model's unfinished rollout, with this command in its journal; this process holds it while the block runs.

    Raises:
        ConflictError: another process runs it.
        AnalysisError: there is no unfinished one, or its journal is damaged.
    """
    project = gateway.project
    with held(project, model, note) as hold:
        journal = open_journal(project, find_journal(project, model), hold)
        runner = _runner(_take_over(gateway, hold, model), journal, note)
        state = runner.state
        if state.outcome is not None:
            raise AnalysisError(
                f"the rollout {state.id} of {model} has ended: {state.outcome}",
                f"See 'tsctl rollout explain {model}'.",
            )
        _record(runner, CommandReceived(command, person()))
        yield runner


@contextmanager
def reopened(gateway: Gateway, model: str, note: Note) -> Iterator[Runner]:
    """The model's last rollout, whose promotion is rolled back; this process holds it while the block runs.

    Raises:
        ConflictError: another process runs it, or the weights have changed since.
        AnalysisError: it was not promoted.
    """
    project = gateway.project
    with held(project, model, note) as hold:
        journal = open_journal(project, find_journal(project, model), hold)
        runner = _runner(_take_over(gateway, hold, model), journal, note)
        state = runner.state
        if state.outcome is not Outcome.PROMOTED:
            raise AnalysisError(f"the last rollout of {model}, {state.id}, was not promoted: it was {state.outcome}")
        stable = route_of(gateway, model).stable
        if stable != state.canary:
            raise ConflictError(
                f"{model} {stable} is stable now, and not {state.canary}, which {state.id} promoted",
                f"Set the weights yourself: tsctl weights set {model} {state.stable}=100%",
            )
        if not any((up.model, up.version) == (model, state.stable) for up in upstreams_written(gateway)):
            raise AnalysisError(
                f"no node serves {model} {state.stable} any more, which was stable before",
                f"Release it again: tsctl rollout start {model} {state.stable}",
            )
        _record(runner, Reopened(person()))
        yield runner


def _record(runner: Runner, event: Event) -> None:
    """Journal the first event of this process, behind entries that the process before wrote at this moment."""
    for _ in range(LATE_ENTRIES):
        with suppress(EntryTaken):
            return runner.record(event)
    runner.record(event)


def is_running(project: Project, model: str, note: Note | None = None) -> bool:
    """Whether a process runs the model's rollout, on any machine that shares the place.

    Args:
        note: gets what is waited for: a sign of life of a process that may be dead. None: it counts as running.
    """
    if is_held(lock_of(project, model)):
        return True
    leases = shared_leases(project)
    return leases is not None and leases.is_held(_subject(model), note)


@dataclass(frozen=True)
class Hold:
    """The right to run the model's rollout.

    Args:
        require: raises ConflictError where another process has it by now.
        term: of the lease; None where machines share no place.
    """

    require: Callable[[], None]
    term: int | None = None


@contextmanager
def held(project: Project, model: str, note: Note = lambda text: None) -> Iterator[Hold]:
    """Keeps every other process from running a rollout of the model while the block runs, on all machines.

    Raises:
        ConflictError: another process runs it.
        PlaceUnreachable, PlaceUnusable: nobody knows whether one does.
    """
    with exclusive(lock_of(project, model), f"the rollout of {model}", BRIEF_S) as require_lock:
        leases = shared_leases(project)
        if leases is None:
            yield Hold(require_lock)
            return
        lease = leases.take(_subject(model), note)
        with lease.kept() as require_lease:

            def require() -> None:
                require_lock()
                require_lease()

            yield Hold(require, lease.term.number)


def _subject(model: str) -> str:
    """Of the lease."""
    return f"rollout-{model}"


def _take_over(gateway: Gateway, hold: Hold, model: str) -> Gateway:
    """The gateway as this process changes it; one that had the hold before changes it no more. Raises ConflictError."""
    return gateway if hold.term is None else as_writer(gateway, hold.require, _subject(model), hold.term)


def open_journal(project: Project, path: Path, hold: Hold) -> Journal:
    """The journal at `path`, to be written."""
    shared, model = shared_journals(project), path.parent.name
    if shared is None:
        return Journal(path, guard=hold.require)
    if path.exists():
        shared.restore(model, path.stem, read(path), this_process())
        shared.pull(model, path.parent)
    else:
        shared.begin(model, path.stem)
    return SharedJournal(path, shared.place, this_process(), guard=hold.require)


def commands_of(project: Project, model: str) -> SharedCommands | None:
    place = shared_place(project)
    return SharedCommands(place, model) if place is not None else None


def _runner(gateway: Gateway, journal: Journal, note: Note, measured: Measured | None = None) -> Runner:
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
