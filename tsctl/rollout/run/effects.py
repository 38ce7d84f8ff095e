"""Applies the effects of a rollout to real nodes and the real gateway. Every effect may be applied twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeVar

from handlers.contract import CHECK_ANSWER, CHECK_HEADER
from tsctl.archive.container import digest_of
from tsctl.archive.store import StoredArchive
from tsctl.archive.trust import stated_trust
from tsctl.archive.verify import verify
from tsctl.config.policy import ShadowStage
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL, percent
from tsctl.errors import ArchiveError, NodeError
from tsctl.gateway.change import set_shadow, set_weights
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.retire import retire
from tsctl.gateway.state import Gateway, traffic_in_force, upstreams_written
from tsctl.gateway.sync import sync
from tsctl.host.progress import Note
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.node import Node
from tsctl.rollout.decide.actions import PREPARATION
from tsctl.rollout.decide.events import Effect, EffectDone
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.capacity_probe import batch_seconds
from tsctl.rollout.run.golden import Golden, read_golden, require_golden
from tsctl.rollout.run.health import nodes_of, read_memory, worker_pids
from tsctl.rollout.run.interfaces import TemporarilyUnavailable, may_succeed_later
from tsctl.rollout.run.live_gateway import LiveGateway

RETIRE_S = 60.0
#: Effects after which more depends on the canary: a node that restarts could not register it without its archive.
NEED_ARCHIVE = (*PREPARATION, Effect.COPY, Effect.SET_WEIGHT, Effect.EXTEND, Effect.SET_DEFAULT)

Value = TypeVar("Value")


@dataclass
class LiveEffects:
    """The nodes that serve a model, and the gateway in front of them.

    Args:
        archive: of the canary.
        workers: of the canary on each node; None: as the archive says.
        trust_pickles: as `verify` takes it.
        replaced: versions that earlier rollouts replaced, the last one first.
    """

    live: LiveGateway
    archive: StoredArchive
    workers: int | None
    note: Note
    trust_pickles: bool = False
    replaced: Sequence[str] = ()

    def apply(self, effect: Effect, state: State) -> EffectDone:
        if effect in NEED_ARCHIVE and not self.archive.path.is_file():
            name = self.gateway.project.relative(self.archive.path)
            kind = ArchiveError if effect in PREPARATION else TemporarilyUnavailable
            raise kind(f"{name}, the archive of this rollout, is gone", "Put it back, or abort the rollout.")
        match effect:
            case Effect.VERIFY:
                return verify_archive(self.gateway.project, self.archive, state, self.trust_pickles)
            case Effect.REGISTER:
                return self._register(state)
            case Effect.VERIFY_GOLDEN:
                return self._verify_golden(state)
            case Effect.SET_WEIGHT:
                self._set_weight(state, state.weight)
                return EffectDone(effect, self._absent(), weight=state.weight)
            case Effect.REVERT_WEIGHT:
                self._set_weight(state, 0)
                return EffectDone(effect, self._absent())
            case Effect.SET_DEFAULT:
                return self._set_default(effect, state, state.canary)
            case Effect.RESTORE_DEFAULT:
                return self._set_default(effect, state, state.stable)
            case Effect.RETIRE:
                return self._retire(state)
            case Effect.EXTEND:
                return self._extend(state)
            case Effect.COPY:
                return self._copy(state)
            case Effect.STOP_COPYING:
                return self._stop_copying(state)

    @property
    def gateway(self) -> Gateway:
        return self.live.now()

    def _register(self, state: State) -> EffectDone:
        """Make the canary READY and warm on every node, with a cluster of weight 0 in the gateway."""
        is_new = self._on_nodes(state.nodes, partial(self._ensure, state))
        sync(self.gateway)
        new = tuple(name for name, registered in is_new.items() if registered)
        return EffectDone(Effect.REGISTER, f"ready on {_text(list(is_new))}", new=new)

    def _extend(self, state: State) -> EffectDone:
        """Make the canary READY on the nodes that joined, with the right golden answers."""
        golden = read_golden(self.archive)

        def cover(node: Node, note: Note) -> None:
            self._ensure(state, node, note)
            require_golden(node, state.model, state.canary, golden)

        covered = tuple(self._on_nodes(state.joined, cover))
        sync(self.gateway)
        return EffectDone(Effect.EXTEND, _text(covered), new=covered)

    def _ensure(self, state: State, node: Node, note: Note) -> bool:
        return node.ensure(self.archive, state.canary, self.workers, note)

    def _verify_golden(self, state: State) -> EffectDone:
        """Compare the answers of every node with the golden ones; measure capacity and warm memory."""
        golden = read_golden(self.archive)
        checked = self._on_nodes(state.nodes, lambda node, note: self._verify_on(state, node, note, golden))
        nodes = list(checked.values())
        rates = [done.requests_per_s for done in nodes if done.requests_per_s]
        how = f"record them: tsctl archive golden {self.archive.model}:{self.archive.version}"
        return EffectDone(
            Effect.VERIFY_GOLDEN,
            f"{len(golden.answers) or 'no'} golden samples on {_text(list(checked))}"
            + ("" if golden.answers else f"; its archive has none, so its answers were not compared; {how}"),
            requests_per_s=round(sum(rates), 1) if rates else None,
            workers=sum(done.workers or 0 for done in nodes),
            warm_bytes={worker: size for done in nodes for worker, size in (done.warm_bytes or {}).items()},
        )

    def _retire(self, state: State) -> EffectDone:
        """Drain and unregister old versions, except as many of the latest as the policy keeps."""
        old = [version for version in dict.fromkeys([state.stable, *self.replaced]) if version != state.canary]
        present = {upstream.version for upstream in upstreams_written(self.gateway) if upstream.model == state.model}
        retired = []
        for version in old[state.policy.keep :]:
            if version not in present:  # it was retired long ago
                continue
            self._require_covered(state, version)
            result = retire(self.gateway, state.model, version, RETIRE_S, self.note)
            if result.failed:
                node, why = result.failed[0]
                raise TemporarilyUnavailable(f"{state.model} {version} is still on node {node}: {why}")
            retired += [version] if result.gone else []
        kept = [version for version in old[: state.policy.keep] if version in present]
        detail = f"{', '.join(retired) or 'none'}; kept for a rollback: {', '.join(kept) or 'none'}"
        return EffectDone(Effect.RETIRE, detail)

    def _require_covered(self, state: State, version: str) -> None:
        """No node that serves the version lacks the canary, or it would serve nothing of the model afterwards."""
        has_canary = nodes_of(self.gateway, state.model, state.canary)
        target = self.gateway.deployment.models.get(state.model)
        lacking = [
            name
            for name in nodes_of(self.gateway, state.model, version)
            if name not in has_canary and (target is None or target.is_on(state.canary, name))
        ]
        if lacking:
            names = ", ".join(lacking)
            raise TemporarilyUnavailable(f"{state.model} {version} stays: node {names} does not have {state.canary}")

    def _copy(self, state: State) -> EffectDone:
        """The canary gets copies of the stage's share of the requests."""
        stage = state.policy.shadow or ShadowStage()
        self._require_gateway()
        set_shadow(self.gateway, state.model, state.canary, stage.share)
        return EffectDone(Effect.COPY, f"{percent(stage.share)} of the requests; no client gets its answers")

    def _stop_copying(self, state: State) -> EffectDone:
        """The canary gets no copies; a shadow that somebody else has set since stays."""
        self._require_gateway()
        route = traffic_in_force(self.gateway).get(state.model)
        if route is not None and route.shadow is not None and route.shadow.version == state.canary:
            set_shadow(self.gateway, state.model, None, 0)
        return EffectDone(Effect.STOP_COPYING)

    def _require_gateway(self) -> None:
        if not self.gateway.admin.is_live():
            raise NotAnswering("the gateway does not run", "Start it with 'tsctl gateway start'.")

    def _absent(self) -> str:
        """Of several gateways, those that do not have the weights; empty where all have them."""
        shared = self.live.opened.shared
        absent = shared.absent if shared is not None else {}
        return ", ".join(f"though not at gateway {name} ({why})" for name, why in absent.items())

    def _set_weight(self, state: State, weight: int) -> None:
        self._require_gateway()
        canary = {state.canary: weight} if weight else {}
        set_weights(self.gateway, state.model, {state.stable: TOTAL - weight, **canary})

    def _set_default(self, effect: Effect, state: State, version: str) -> EffectDone:
        """Make it the version for callers of the nodes that name none."""
        names = state.nodes if version == state.canary else state.stable_nodes
        nodes = self._on_nodes(names, lambda node, note: node.set_default(state.model, version))
        return EffectDone(effect, _text(list(nodes)))

    def _verify_on(self, state: State, node: Node, note: Note, golden: Golden) -> EffectDone:
        note("golden samples")
        require_golden(node, state.model, state.canary, golden)
        version = node.require_version(state.model, state.canary)
        is_timed = golden.samples and not golden.is_text
        return EffectDone(
            Effect.VERIFY_GOLDEN,
            requests_per_s=self._capacity(state, node, golden, version.ready) if is_timed else None,
            workers=version.ready,
            warm_bytes=read_memory(worker_pids(node, version)),
        )

    def _capacity(self, state: State, node: Node, golden: Golden, workers: int) -> float:
        _, body, media_type = min(golden.samples, key=lambda sample: len(sample[1]))
        url = node.url(state.model, state.canary) + node.path(state.model, state.canary)
        headers = {"content-type": media_type, "cache-control": "no-store", CHECK_HEADER: CHECK_ANSWER, **node.access()}
        took = batch_seconds(url, headers, [body] * golden.batch, node.unwrap)
        return workers * golden.batch / median(took)

    def _on_nodes(self, names: Sequence[str], act: Callable[[Node, Note], Value]) -> Mapping[str, Value]:
        """The result of each of the nodes that deployment.yaml still names, by its name.

        Raises:
            TemporarilyUnavailable: a node does not answer, somebody else changes the model there, or there is none.
            NodeError: it failed on a node that answers.
        """
        nodes = self.live.nodes(names)
        if not nodes:
            raise TemporarilyUnavailable(f"deployment.yaml names none of the nodes {', '.join(names)}")
        results = run_on_nodes(nodes, act, self.note)
        failed = [(result.node, result.error) for result in results if result.error is not None]
        for name, error in failed:
            if not may_succeed_later(error):
                raise NodeError(f"node {name}: {error.message}", error.hint)
        if failed:
            raise TemporarilyUnavailable("; ".join(f"node {name}: {error.summary}" for name, error in failed))
        return {result.node: result.value for result in results}  # type: ignore[misc]  # a value where no error


def verify_archive(project: Project, archive: StoredArchive, state: State, trust_pickles: bool) -> EffectDone:
    """Check that the archive is sound, and is the one with which the rollout began."""
    if digest_of(archive.path) != state.archive:
        raise ArchiveError(f"{archive.path.name} is no longer the archive with which this rollout began")
    trust_of = stated_trust(project)
    report = verify(archive.path, trust_pickles=trust_pickles, trust_of=trust_of)
    if not report.is_good:
        fails = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "fail")
        hint = ""
        for pickles in (check for check in report.checks if check.name == "pickles" and check.outcome == "fail"):
            once = "; 'tsctl rollout start --trust-pickles' takes imports that are only unknown as a warning"
            hint = f". {pickles.hint}{'' if trust_pickles else once}"
        raise ArchiveError(f"{archive.path.name} failed verification: {fails}{hint}")
    warned = [f"{check.name}: {check.detail}" for check in report.checks if check.outcome == "warn"]
    detail = f"{len(report.checks)} checks of {archive.path.name}"
    return EffectDone(Effect.VERIFY, "; ".join([detail, *warned]))


def _text(nodes: Sequence[str]) -> str:
    """`2 nodes (local, far)`."""
    return f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} ({', '.join(nodes)})"
