"""Begins a rollout, or takes up one whose process is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tsctl.archive.store import StoredArchive, archive_of, digest_of, find_archive
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError, ConflictError, GatewayError, SpecError
from tsctl.gateway.counters import Sample
from tsctl.gateway.state import Gateway, open_gateway, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.host.locks import exclusive, is_held
from tsctl.host.progress import Note
from tsctl.rollout.decide.events import Command, Outcome, Started, start_of
from tsctl.rollout.decide.state import State, fold
from tsctl.rollout.evidence.counts import Cursor, EvidenceQuery, classes_of, requests_of, series
from tsctl.rollout.evidence.sources import EnvoyCounters, PrometheusServer, Source
from tsctl.rollout.evidence.users import UserLog
from tsctl.rollout.run import commands as control
from tsctl.rollout.run.effects import Site
from tsctl.rollout.run.journal import Journal, find_journal, journals, new_path, unfinished
from tsctl.rollout.run.runner import Runner

#: How long whoever only looks whether a rollout runs may be in the way.
GLANCE_S = 0.5


@dataclass(frozen=True)
class Place:
    """Where a rollout happens."""

    project: Project
    deployment: DeploymentSpec
    gateway: Gateway

    def source(self, policy: RolloutPolicy) -> Source:
        """Where the policy has counts read."""
        return PrometheusServer(policy.prometheus) if policy.prometheus else EnvoyCounters(self.gateway.admin)

    def users(self, since: Cursor) -> UserLog:
        """The log that tells users apart, on routes that divide them."""
        return UserLog(self.gateway.files.access_log, since)

    def is_sticky(self, model: str) -> bool:
        """Whether the route divides users and not requests."""
        target = self.deployment.models.get(model)
        return target is not None and target.route.sticky is not None


def open_place(project: Project, deployment: DeploymentSpec) -> Place:
    """The project's nodes and gateway; nothing is asked.

    Raises:
        SpecError: the deployment has no gateway.
    """
    return Place(project, deployment, open_gateway(project, deployment))


@contextmanager
def started(place: Place, model: str, version: str, workers: int | None, note: Note) -> Iterator[Runner]:
    """A new rollout of the version, in the journal and not yet begun; this process holds it while the block runs.

    Raises:
        ConflictError: another rollout of the model has not ended, or the weights were divided by hand.
        ArchiveError: there is no archive of the version.
        GatewayError: the gateway does not run, or has no route for the model.
        SpecError: deployment.yaml gives the weights.
        AnalysisError: Prometheus, where the policy names one, does not tell what the gateway has counted.
    """
    archive = find_archive(place.project, model, version)
    with _held(place.project, model):
        if (other := unfinished(place.project, model)) is not None:
            raise ConflictError(
                f"the rollout {other} of {model} has not ended",
                f"'tsctl rollout resume {model}' goes on with it, 'tsctl rollout abort {model}' takes it back.",
            )
        _require_own_weights(place.deployment, model)
        route = _route(place, model)
        _require_whole(route, version)
        policy = place.deployment.policy(model)
        samples = _samples(place, policy, model)
        digest = digest_of(archive.path)
        nodes = _nodes_of(place, model, route.stable)
        control.forget(place.project, model)  # what was asked of an earlier one is not asked of this
        journal = Journal(new_path(place.project, model, version, time.time()))
        journal.append(
            Started(
                id=journal.id,
                model=model,
                canary=version,
                stable=route.stable,
                archive=digest,
                file=archive.path.name,
                workers=workers,
                nodes=tuple(nodes),
                policy=policy,
                policy_digest=policy.digest,
                classes=classes_of(samples, model, route.stable),
                cursor={**series(samples, EvidenceQuery(model, route.stable, version)), **place.users({}).mark()},
                by=control.who(),
            )
        )
        counted = requests_of(EnvoyCounters(place.gateway.admin).samples(model), model)
        yield _runner(place, journal, archive, note, (time.monotonic(), counted))


@contextmanager
def resumed(place: Place, model: str, note: Note, command: Command = Command.RESUME) -> Iterator[Runner]:
    """The model's rollout as its journal has it; this process holds it while the block runs.

    Args:
        command: is given to it first.

    Raises:
        ConflictError: another process runs it.
        AnalysisError: there is none that has not ended, or its journal is damaged.
    """
    with _held(place.project, model):
        journal = Journal(find_journal(place.project, model))
        state = fold(journal.entries)
        if state.outcome is not None:
            raise AnalysisError(
                f"the rollout {state.id} of {model} has ended: {state.outcome}",
                f"See 'tsctl rollout explain {model}'.",
            )
        runner = _runner(place, journal, _archive(place, journal), note)
        runner.command(command, control.who())
        yield runner


@contextmanager
def taken_back(place: Place, model: str, note: Note) -> Iterator[Runner]:
    """The model's last rollout, which was promoted, goes back to what was stable before it.

    Raises:
        ConflictError: another process runs it, or the weights have changed since.
        AnalysisError: it was not promoted.
    """
    with _held(place.project, model):
        journal = Journal(find_journal(place.project, model))
        state = fold(journal.entries)
        if state.outcome is not Outcome.PROMOTED:
            raise AnalysisError(f"the last rollout of {model}, {state.id}, was not promoted: it was {state.outcome}")
        route = _route(place, model)
        if route.stable != state.canary:
            raise ConflictError(
                f"{model} {route.stable} is stable now, and not {state.canary}, which {state.id} promoted",
                f"Set the weights yourself: tsctl weights set {model} {state.stable}=100%",
            )
        if not any((one.model, one.version) == (model, state.stable) for one in upstreams_written(place.gateway)):
            raise AnalysisError(
                f"{model} {state.stable}, which was stable before, is served by no node any more",
                f"Release it again: tsctl rollout start {model} {state.stable}",
            )
        runner = _runner(place, journal, _archive(place, journal), note)
        runner.reopen(control.who())
        yield runner


@contextmanager
def _held(project: Project, model: str) -> Iterator[None]:
    with exclusive(control.lock(project, model), f"the rollout of {model}", GLANCE_S):
        yield


def is_running(project: Project, model: str) -> bool:
    """Whether a process holds the model's rollout."""
    return is_held(control.lock(project, model))


def _runner(
    place: Place, journal: Journal, archive: StoredArchive, note: Note, counted: tuple[float, int] | None = None
) -> Runner:
    state, start = fold(journal.entries), start_of(journal.entries)
    site = Site(
        project=place.project,
        gateway=place.gateway,
        archive=archive,
        workers=start.workers,
        nodes=start.nodes,
        source=place.source(start.policy),  # another one counts from another moment on
        note=note,
        kept=_stable_before(place.project, state),
        counted=counted,
        users=place.users(start.cursor) if place.is_sticky(state.model) else None,
    )
    return Runner(journal, site, note)


def _stable_before(project: Project, state: State) -> tuple[str, ...]:
    """Versions of the model that its rollouts replaced, the last one first."""
    found: list[str] = []
    for path in reversed(journals(project, state.model)):
        if path.stem == state.id:
            continue
        entries = Journal(path).entries
        if entries and fold(entries).outcome is Outcome.PROMOTED:
            found.append(fold(entries).stable)
    return tuple(dict.fromkeys(found))


def _samples(place: Place, policy: RolloutPolicy, model: str) -> list[Sample]:
    """What was counted until now, which is no evidence.

    Raises:
        AnalysisError: Prometheus does not know it yet, and would tell it later as if it were new.
    """
    samples = place.source(policy).samples(model)
    if policy.prometheus and not requests_of(samples, model):
        counted = requests_of(EnvoyCounters(place.gateway.admin).samples(model), model)
        if counted:
            raise AnalysisError(
                f"Prometheus at {policy.prometheus} knows no request of {model}, and the gateway counted {counted:,}",
                f"Does it scrape {place.gateway.spec.metrics}/metrics? A server that has just started needs a while.",
            )
    return samples


def _route(place: Place, model: str) -> Traffic:
    if not place.gateway.admin.is_live():
        raise GatewayError("the gateway does not run", "Start it with 'make up' or 'tsctl gateway start'.")
    routes = {one.model: one for one in traffic_in_force(place.gateway)}
    if model not in routes:
        raise GatewayError(f"no route for model {model!r}", f"There are {', '.join(routes) or 'none'}.")
    return routes[model]


def _require_own_weights(deployment: DeploymentSpec, model: str) -> None:
    target = deployment.models.get(model)
    if target is not None and target.weights is not None:
        raise SpecError(
            f"deployment.yaml gives the weights of {model}, which a rollout changes",
            f"Remove models.{model}.weights, or 'tsctl apply' would set them back.",
        )


def _require_whole(route: Traffic, version: str) -> None:
    if version == route.stable:
        raise ConflictError(f"{route.model} {version} is stable already, so there is nothing to release")
    if route.weights[route.stable] != TOTAL:
        raise ConflictError(
            f"the requests of {route.model} are divided by hand: {weights_text(route)}",
            f"Give stable everything first: tsctl weights set {route.model} {route.stable}=100%",
        )


def _nodes_of(place: Place, model: str, version: str) -> list[str]:
    found = next(
        (one for one in upstreams_written(place.gateway) if (one.model, one.version) == (model, version)), None
    )
    names = [endpoint.node for endpoint in found.endpoints] if found else []
    if not names:
        raise GatewayError(f"no node serves {model} {version}, which is stable", "See 'tsctl status'.")
    return names


def _archive(place: Place, journal: Journal) -> StoredArchive:
    """What is released, or was; its file may be gone, and the way back does not need it."""
    return archive_of(place.project.store / start_of(journal.entries).file)
