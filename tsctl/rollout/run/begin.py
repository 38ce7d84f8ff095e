"""Begins a rollout; resume.py takes up one whose process is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tsctl.archive.container import digest_of
from tsctl.archive.store import find_archive
from tsctl.gateway.state import Gateway
from tsctl.host.person import person
from tsctl.host.progress import Note
from tsctl.records.database import require
from tsctl.rollout.decide.events import Started
from tsctl.rollout.decide.fold import start_of
from tsctl.rollout.evidence.counts import EvidenceQuery
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.rate import measure
from tsctl.rollout.evidence.several import cursor_of, together
from tsctl.rollout.evidence.source import EnvoyCounters
from tsctl.rollout.evidence.totals import classes_of
from tsctl.rollout.run.commands import LiveOperator, sticky_text
from tsctl.rollout.run.hold import commands_of, held, open_journal, take_over
from tsctl.rollout.run.journal_files import new_path, require_none
from tsctl.rollout.run.live_gateway import LiveGateway
from tsctl.rollout.run.live_runner import live_runner
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
        gateway = take_over(gateway, hold, model)
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
        yield live_runner(
            gateway, journal, note, measure(EnvoyCounters(gateway.admin), start_of([start]), time.monotonic())
        )
