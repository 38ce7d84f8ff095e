"""What a rollout acts on: real nodes, the real gateway, and the counts that it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tsctl.archive.store import StoredArchive, digest_of
from tsctl.archive.verify import verify
from tsctl.config.deployment import read_deployment
from tsctl.config.policy import RolloutPolicy
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.errors import ArchiveError, ConflictError, NodeError, SpecError, TsctlError
from tsctl.gateway.change import set_weights
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.retire import retire
from tsctl.gateway.state import Gateway, traffic_in_force, upstreams_written
from tsctl.gateway.sync import sync
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.host.process import memory_bytes
from tsctl.host.progress import Note
from tsctl.nodes.fan_out import NodeResult, is_unavailable, run_on_nodes
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.client import VersionState
from tsctl.nodes.torchserve.node import Node, open_nodes
from tsctl.nodes.torchserve.tokens import read_tokens
from tsctl.rollout.decide.capacity import requests_per_s
from tsctl.rollout.decide.events import Command, Effect, EffectDone
from tsctl.rollout.decide.evidence import Window
from tsctl.rollout.decide.state import State
from tsctl.rollout.evidence.counts import SLOW, Answers, Cursor, EvidenceQuery, answers_of, requests_of, series
from tsctl.rollout.evidence.sources import EnvoyCounters, Source, read
from tsctl.rollout.evidence.users import UserLog
from tsctl.rollout.run import commands as control
from tsctl.rollout.run.capacity_probe import batch_seconds
from tsctl.rollout.run.golden import Golden, read_golden, require_golden
from tsctl.rollout.run.runner import LEAST_ANSWERS, Away

#: How often the nodes and the weights in force are looked at.
LOOK_S = 2.0
#: Requests a second are counted over this time at least.
RATE_S = 2.0
RETIRE_S = 60.0


@dataclass
class Site:
    """The nodes that serve a model, and the gateway before them.

    Args:
        archive: of the canary.
        workers: of the canary on each node; None: as the archive says.
        nodes: names of those that serve stable.
        kept: versions that were stable before, the last one first.
        counted: requests of the route when Envoy was asked for its rate last, and when, by the clock.
        users: where evidence is read on a route that divides users; None: counters of requests are read.
    """

    project: Project
    gateway: Gateway
    archive: StoredArchive
    workers: int | None
    nodes: Sequence[str]
    source: Source
    note: Note
    kept: Sequence[str] = ()
    users: UserLog | None = None
    counted: tuple[float, int] | None = None
    clock: Callable[[], float] = time.monotonic
    _before: Answers | None = None
    _looked_at: float = 0.0
    _pids: dict[str, int] = field(default_factory=dict)
    _trouble: str = ""
    _spec: tuple[float, RolloutPolicy] | None = None
    _spec_trouble: str = ""
    _golden: Golden | None = field(default=None, repr=False)

    # ---- before the first request ----------------------------------------------------------------------------------

    def verify(self, state: State) -> EffectDone:
        """The archive is sound, and is the one with which the rollout began."""
        self._require_archive()
        if digest_of(self.archive.path) != state.archive:
            raise ArchiveError(f"{self.archive.path.name} is no longer the archive with which this rollout began")
        report = verify(self.archive.path)
        wrong = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "fail")
        if not report.is_good:
            raise ArchiveError(f"{self.archive.path.name} must not be served: {wrong}")
        return EffectDone(Effect.VERIFY, f"{len(report.checks)} checks of {self.archive.path.name}")

    def register(self, state: State) -> EffectDone:
        """Every node has the canary READY and warm, and the gateway a cluster for it, with no weight."""
        self._require_archive()
        ended = self._everywhere(lambda node, note: versions.ensure(node, self.archive, self.workers, note))
        sync(self.gateway)
        new = tuple(one.node for one in ended if one.value)
        return EffectDone(Effect.REGISTER, f"ready on {', '.join(one.node for one in ended)}", new=new)

    def prove(self, state: State) -> EffectDone:
        """Every node answers the golden samples rightly; how much its workers can carry, and their memory when warm."""
        self._require_archive()
        golden = self._golden = self._golden or read_golden(self.archive)

        def act(node: Node, note: Note) -> tuple[int, float | None, VersionState]:
            note("golden samples")
            count = require_golden(node, self.archive, golden)
            [found] = node.client.describe(state.model, state.canary)
            return count, self._carries(node, golden, found.ready_workers), found

        ended = self._everywhere(act)
        rates = [one.value[1] for one in ended if one.value and one.value[1]]
        count = min(one.value[0] for one in ended if one.value)
        self._pids = {
            k: pid for one in ended if one.value for k, pid in self._workers(one.node, [one.value[2]]).items()
        }
        return EffectDone(
            Effect.VERIFY_GOLDEN,
            f"{count} golden answers on {', '.join(one.node for one in ended)}",
            requests_per_s=round(sum(rates), 1) if rates else None,
            workers=sum(one.value[2].ready_workers for one in ended if one.value),
            warm_bytes=self.memory(state),
        )

    def _require_archive(self) -> None:
        if not self.archive.path.is_file():
            raise ArchiveError(f"{self.project.relative(self.archive.path)}, which this rollout releases, is gone")

    def _carries(self, node: Node, golden: Golden, workers: int) -> float | None:
        if not golden.samples:
            return None
        token = read_tokens(node.key_file).inference.header if node.key_file is not None else {}
        _, body, media_type = min(golden.samples, key=lambda sample: len(sample[1]))
        url = f"{node.spec.inference}/predictions/{self.archive.model}/{self.archive.version}"
        headers = {"content-type": media_type, "cache-control": "no-store", **token}
        return requests_per_s(batch_seconds(url, headers, [body] * golden.batch), golden.batch, workers)

    # ---- weights ---------------------------------------------------------------------------------------------------

    def weigh(self, state: State, weight: int) -> None:
        """In force when this returns."""
        if not self.gateway.admin.is_live():
            raise NotAnswering("the gateway does not run", "Start it with 'tsctl gateway start'.")
        canary = {state.canary: weight} if weight else {}
        set_weights(self.gateway, state.model, {state.stable: TOTAL - weight, **canary})
        self._looked_at = 0.0

    # ---- after the last step ---------------------------------------------------------------------------------------

    def default(self, state: State) -> EffectDone:
        """The canary answers direct callers that name no version."""
        return self._set_default(Effect.SET_DEFAULT, state.model, state.canary)

    def undefault(self, state: State) -> EffectDone:
        """Stable does again."""
        return self._set_default(Effect.RESTORE_DEFAULT, state.model, state.stable)

    def _set_default(self, effect: Effect, model: str, version: str) -> EffectDone:
        ended = self._everywhere(lambda node, note: versions.set_default(node, model, version))
        return EffectDone(effect, f"{version} is the default on {', '.join(one.node for one in ended)}")

    def retire(self, state: State) -> EffectDone:
        """Versions that were stable before those that the policy keeps have left, drained."""
        old = [version for version in dict.fromkeys([state.stable, *self.kept]) if version != state.canary]
        there = {one.version for one in upstreams_written(self.gateway) if one.model == state.model}
        gone = []
        for version in old[state.policy.keep :]:
            if version not in there:  # it left long ago
                continue
            ended = retire(self.gateway, state.model, version, RETIRE_S, self.note)
            if ended.failed:
                node, why = ended.failed[0]
                raise Away(f"{state.model} {version} is still on node {node}: {why}")
            gone += [version] if ended.gone else []
        kept = ", ".join(version for version in old[: state.policy.keep] if version in there)
        retired = f"retired {', '.join(gone) or 'nothing'}; kept for the way back: {kept or 'nothing'}"
        return EffectDone(Effect.RETIRE, retired)

    # ---- evidence --------------------------------------------------------------------------------------------------

    def slow_ms(self, state: State) -> float | None:
        """By what stable answered since this was asked last, or where that was little, since the gateway started."""
        all_ = answers_of(self.source.samples(state.model), state.model, state.stable)
        recent = all_ - self._before if self._before is not None else all_
        self._before = all_
        found = recent if recent.total >= LEAST_ANSWERS else all_
        return found.slow_ms(state.policy.slow_quantile) if found.total >= LEAST_ANSWERS else None

    def mark(self, query: EvidenceQuery) -> Cursor:
        """Answers that were as slow before now are no evidence; requests count since they were read last."""
        if self.users is not None:  # each line tells how long its answer took
            return {}
        found = series(self.source.samples(query.model), query)
        return {key: value for key, value in found.items() if key.startswith(SLOW)}

    def read(self, query: EvidenceQuery, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
        return self.users.read(query, cursor) if self.users is not None else read(self.source, query, cursor)

    def rate(self, state: State) -> float:
        """By Envoy, also where Prometheus has the counts: between two scrapes its rate would be none."""
        now, total = self.clock(), requests_of(EnvoyCounters(self.gateway.admin).samples(state.model), state.model)
        if self.counted is None or now - self.counted[0] < RATE_S or total < self.counted[1]:
            self.counted = self.counted if self.counted and total >= self.counted[1] else (now, total)
            raise Away("the rate of requests is being measured")
        since, before = self.counted
        self.counted = (now, total)
        return (total - before) / (now - since)

    def capacity(self, state: State) -> float | None:
        """As measured before the first step, and for the workers that are READY now: it may have been scaled since."""
        if state.requests_per_s is None or not state.measured_workers:
            return state.requests_per_s
        ended = run_on_nodes(self._nodes, lambda node, note: node.client.describe(state.model, state.canary))
        for one in ended:
            if one.error is not None:
                raise Away(f"node {one.node} does not answer: {one.error.summary}")
        ready: int = sum(found.ready_workers for one in ended for found in one.value or ())
        if not ready:
            raise Away(f"no worker of {state.model} {state.canary} is READY on any node")
        return state.requests_per_s * ready / state.measured_workers

    def memory(self, state: State) -> Mapping[str, int]:
        """Of the workers that were there when the nodes were last looked at, on this machine."""
        sizes = {name: memory_bytes(pid) for name, pid in self._pids.items()}
        return {name: size for name, size in sizes.items() if size is not None}

    # ---- what stands in the way, and what people say ---------------------------------------------------------------

    def trouble(self, state: State) -> str:
        now = self.clock()
        if now - self._looked_at >= LOOK_S:
            self._trouble = self._look(state)
            self._looked_at = self.clock()
        return self._trouble or self._spec_trouble

    def _look(self, state: State) -> str:
        if not self.gateway.admin.is_live():  # what is read from Prometheus does not tell
            return "the gateway does not run"
        ended = run_on_nodes(self._nodes, lambda node, note: node.client.describe(state.model, state.canary))
        for one in ended:
            if one.error is not None:
                return f"node {one.node} does not answer: {one.error.summary}"
            if not one.value:
                return f"{state.model} {state.canary} is no longer registered on node {one.node}"
        self._pids = {name: pid for one in ended for name, pid in self._workers(one.node, one.value or []).items()}
        route = next((one for one in traffic_in_force(self.gateway) if one.model == state.model), None)
        if route is None:
            return f"the gateway has no route for {state.model}"
        if (state.is_weighed or not state.weight) and not is_as_decided(route, state):
            return f"somebody else changed the weights: {weights_text(route)}"
        return ""

    def policy(self, state: State) -> RolloutPolicy:
        """The policy of the file; the last one that could be read, where it cannot be read now."""
        path = self.project.deployment
        try:
            stamp = path.stat().st_mtime
            if self._spec is None or stamp != self._spec[0]:
                self._spec = (stamp, read_deployment(path).policy(state.model))
            self._spec_trouble = ""
        except (SpecError, OSError) as error:
            self._spec_trouble = f"deployment.yaml cannot be read: {error}"
        return self._spec[1] if self._spec is not None else state.policy

    def asked(self) -> list[tuple[Command, str]]:
        return control.asked(self.project, self.archive.model)

    def answered(self) -> None:
        control.answered(self.project, self.archive.model)

    # ---- nodes -----------------------------------------------------------------------------------------------------

    @cached_property
    def _nodes(self) -> list[Node]:
        found = open_nodes(self.project, self.gateway.deployment)
        return [node for node in found if node.name in self.nodes]

    def _workers(self, node: str, found: Sequence[VersionState]) -> dict[str, int]:
        """Pids of READY workers on a node of this machine, by names that tell them apart."""
        is_here = any(one.name == node and one.is_here for one in self._nodes)
        ready = [worker for one in found for worker in one.workers if worker.is_ready] if is_here else []
        return {f"{worker.id} on {node}": worker.pid for worker in ready}

    def _everywhere(self, act: Callable[[Node, Note], Any]) -> list[NodeResult[Any]]:
        """It was done on every node.

        Raises:
            Away: a node does not answer, or somebody else changes the model there.
            NodeError: it failed on a node that answers.
        """
        ended = run_on_nodes(self._nodes, act, self.note)
        failed = [(one.node, one.error) for one in ended if one.error is not None]
        for node, error in failed:
            if not _may_end(error):
                raise NodeError(f"node {node}: {error.message}", error.hint)
        if failed:
            raise Away("; ".join(f"node {node}: {error.summary}" for node, error in failed))
        return ended


def is_as_decided(route: Traffic, state: State) -> bool:
    """Whether stable and the canary, and nobody else, have the weights that the journal says."""
    wanted = {state.stable: TOTAL - state.weight, state.canary: state.weight}
    return all(route.weights.get(version, 0) == weight for version, weight in wanted.items())


def _may_end(error: TsctlError) -> bool:
    return is_unavailable(error) or isinstance(error, ConflictError)
