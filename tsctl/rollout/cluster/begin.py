"""Begins a rollout on a cluster, or takes up one whose process is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tsctl.archive.container import digest_of
from tsctl.archive.store import archive_of, find_archive
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError, SpecError
from tsctl.gateway.kubernetes.backend import HttpRoutes, open_http_routes
from tsctl.gateway.state import require_route
from tsctl.host.person import person
from tsctl.host.progress import Note
from tsctl.rollout.cluster.effects import ClusterEffects
from tsctl.rollout.cluster.evidence import PodPrometheus, WorkerEvidence
from tsctl.rollout.cluster.health import ClusterHealth
from tsctl.rollout.cluster.worker_counts import items_of, values_of
from tsctl.rollout.decide.events import Started
from tsctl.rollout.decide.fold import start_of
from tsctl.rollout.decide.interventions import Command, CommandReceived
from tsctl.rollout.decide.shadow import PairsCompared
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.commands import LiveOperator, sticky_text
from tsctl.rollout.run.effects import verify_archive
from tsctl.rollout.run.golden import read_golden
from tsctl.rollout.run.hold import commands_of, held, open_journal
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import find_journal, new_path, require_none
from tsctl.rollout.run.preconditions import generates_text, require_no_weights, require_undivided
from tsctl.rollout.run.runner import Runner


@dataclass(frozen=True)
class OpenedCluster:
    """A project whose traffic is on a cluster."""

    project: Project
    deployment: DeploymentSpec

    @property
    def routes(self) -> HttpRoutes:
        if self.deployment.kubernetes is None:
            raise SpecError("deployment.yaml has no kubernetes any more")
        return open_http_routes(self.deployment, self.deployment.kubernetes)


@dataclass
class LiveCluster:
    """The cluster as deployment.yaml describes it now; `error`: why that file could not be read last."""

    opened: OpenedCluster
    error: str = ""
    _modified_ns: int | None = None
    _routes: HttpRoutes | None = None

    def now(self) -> OpenedCluster:
        project = self.opened.project
        try:
            modified_ns = project.deployment.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                self.opened = OpenedCluster(project, read_deployment(project.deployment))
                self._modified_ns, self._routes = modified_ns, None
            self.error = ""
        except (SpecError, OSError) as error:
            self.error = f"deployment.yaml cannot be read: {error}"
        return self.opened

    def routes(self) -> HttpRoutes:
        opened = self.now()
        if self._routes is None:
            self._routes = opened.routes
        return self._routes


class NoPairs:
    """Stands where a shadow stage would compare answers: on a cluster copies are not marked, so no rollout has one."""

    def read(self, state: State) -> PairsCompared | None:
        raise AnalysisError("no answers can be compared on a cluster")


@contextmanager
def started_on_cluster(
    opened: OpenedCluster, model: str, version: str, note: Note, trust_pickles: bool = False
) -> Iterator[Runner]:
    """A new rollout, in the journal and not yet begun; this process holds it while the block runs.

    Raises:
        ConflictError: another rollout of the model has not ended, or the weights were divided by hand.
        ArchiveError: there is no archive of the version.
        GatewayError: the API server does not answer, or has no route for the model.
        SpecError: deployment.yaml or the policy asks for what a rollout on a cluster cannot do.
        AnalysisError: Prometheus does not answer, or has no counts of the model.
    """
    project, deployment = opened.project, opened.deployment
    archive = find_archive(project, model, version)
    with held(project, model, note) as hold:
        require_none(project, model)
        require_no_weights(deployment, model)
        policy = deployment.policy(model).judging(False)
        address = require_possible(deployment, policy, model, generates_text(archive))
        route = require_route(opened.routes.traffic(), model)
        require_undivided(route, version)
        samples = PodPrometheus(address, opened.routes.api.namespace).samples(model)
        if not items_of(samples):
            raise AnalysisError(
                f"Prometheus at {address} has no answered item of {model}",
                "Does it scrape the pods, and had the model a request? See docs/kubernetes.md.",
            )
        LiveOperator(LiveCluster(opened), model, commands_of(project, model)).forget()
        journal = open_journal(project, new_path(project, model, version, time.time()), hold)
        journal.append(
            Started(
                id=journal.id,
                model=model,
                canary=version,
                stable=route.stable,
                archive=digest_of(archive.path),
                policy=policy,
                file=archive.path.name,
                policy_digest=policy.digest,
                cursor=values_of(samples, (route.stable, version), None),
                trust_pickles=trust_pickles,
                by=person(),
            )
        )
        yield _runner(opened, journal, note)


@contextmanager
def resumed_on_cluster(
    opened: OpenedCluster, model: str, note: Note, command: Command = Command.RESUME
) -> Iterator[Runner]:
    """The model's unfinished rollout, with this command in its journal. Errors as in `tsctl.rollout.run.begin`."""
    with held(opened.project, model, note) as hold:
        runner = _runner(opened, open_journal(opened.project, find_journal(opened.project, model), hold), note)
        if runner.state.outcome is not None:
            raise AnalysisError(f"the rollout {runner.state.id} of {model} has ended: {runner.state.outcome}")
        runner.record(CommandReceived(command, person()))
        yield runner


def require_possible(deployment: DeploymentSpec, policy: RolloutPolicy, model: str, is_text: bool) -> str:
    """The address of the Prometheus with the evidence; SpecError where a rollout on a cluster cannot be judged."""
    kubernetes, of_model = deployment.kubernetes, f"the rollout of {model}"
    if kubernetes is None or kubernetes.engine != "uvicorn":
        raise SpecError(f"{of_model}: pods of TorchServe have no counters of our workers, by which it would be judged")
    if is_text:
        raise SpecError(
            f"{of_model}: a language model is judged by this machine's gateway, which reads every answer",
            "Set its weights yourself: tsctl weights set",
        )
    if sticky_text(deployment, model):
        raise SpecError(f"{of_model}: its route is sticky, and an HTTPRoute divides single requests")
    if policy.shadow is not None:
        raise SpecError(
            f"{of_model}: copies are not marked on a cluster, so answers to them cannot be compared",
            "Give the model a policy without shadow.",
        )
    if unseen := [signal for signal in policy.signals if signal not in ("errors", "refused", "slow")]:
        raise SpecError(
            f"{of_model}: no counter of the workers has the signal {unseen[0]}",
            "Set rollout.signals: [errors, refused, slow], the ones that can be judged on a cluster.",
        )
    if policy.prometheus is None:
        raise SpecError(
            f"{of_model}: its policy names no Prometheus, which has the counters", "Set rollout.prometheus."
        )
    return policy.prometheus


def _runner(opened: OpenedCluster, journal: Journal, note: Note) -> Runner:
    start, live = start_of(journal.entries), LiveCluster(opened)
    archive = archive_of(opened.project.store / start.file)
    if start.nodes or start.policy.prometheus is None:
        raise ConflictError(f"the rollout {start.id} began on nodes, and not on a cluster")
    source = PodPrometheus(start.policy.prometheus, opened.routes.api.namespace)
    return Runner(
        journal,
        ClusterEffects(
            live.routes,
            lambda state: verify_archive(opened.project, archive, state, start.trust_pickles),
            lambda: read_golden(archive),
        ),
        WorkerEvidence(source),
        ClusterHealth(live.routes),
        LiveOperator(live, start.model, commands_of(opened.project, start.model)),
        NoPairs(),
        note,
    )
