"""Looks at what a running rollout stands on: nodes, workers, the canary's archive, and weights."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tsctl.archive.container import digest_of
from tsctl.archive.store import StoredArchive
from tsctl.config.weights import TOTAL
from tsctl.errors import TsctlError
from tsctl.gateway.state import Gateway, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.host.process import memory_bytes
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observed import ObservedVersion
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.interfaces import TemporarilyUnavailable
from tsctl.rollout.run.live_gateway import LiveGateway

#: Nodes and weights are checked this often.
CHECK_S = 2.0
#: A canary may be on no node for this long. Registered without a READY worker, it has its startup timeout more.
GONE_S = 60.0


@dataclass(kw_only=True)
class CheckedHealth(ABC):
    """Checks anew every CHECK_S, and when the weight has changed."""

    clock: Callable[[], float] = time.monotonic
    _checked: tuple[float, int, bool] | None = None  # when, and at which weight
    _trouble: str = ""
    _grace_s: float | None = None

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        now, at = self.clock(), (state.weight, state.is_weighed)
        checked = self._checked
        if is_fresh or checked is None or checked[1:] != at or now - checked[0] >= CHECK_S:
            self._grace_s = None
            try:
                self._trouble = self._check(state)
            except TsctlError as error:
                self._trouble = error.summary
            self._checked = self.clock(), *at
        return self._trouble

    def grace_s(self, state: State) -> float | None:
        self.trouble(state)
        return self._grace_s

    @abstractmethod
    def _check(self, state: State) -> str:
        """As `trouble`; sets `_grace_s` where the canary alone is without a READY worker."""


@dataclass
class LiveHealth(CheckedHealth):
    """The canary's nodes and workers, its archive, and the weights in force."""

    gateway: LiveGateway
    archive: StoredArchive
    _eligible: tuple[str, ...] = ()  # nodes with stable, on which the canary may be
    _pids: dict[str, int] = field(default_factory=dict)
    _archive_mark: tuple[int, int, int] | None = None  # of the file whose digest was right

    def capacity(self, state: State) -> float | None:
        """As measured before the first step, scaled to the workers that are READY now."""
        if state.requests_per_s is None or not state.measured_workers:
            return state.requests_per_s
        canary = self._describe(state, state.canary, self.gateway.nodes(state.nodes))
        ready = sum(version.ready for version in canary if version)
        if not ready:
            raise TemporarilyUnavailable(f"no worker of {state.model} {state.canary} is READY on any node")
        return state.requests_per_s * ready / state.measured_workers

    def memory(self, state: State) -> Mapping[str, int]:
        """Of the workers on this machine that the last check saw."""
        return read_memory(self._pids)

    def joined(self, state: State) -> tuple[str, ...]:
        """Also between two checks, at which those that the last one saw may be in the state already."""
        self.trouble(state)
        return tuple(name for name in self._eligible if name not in (*state.nodes, *state.joined))

    def _check(self, state: State) -> str:
        self._eligible = ()
        gateway = self.gateway.now()
        if not gateway.admin.is_live():  # Prometheus would not tell
            return "the gateway does not run"
        serving = nodes_of(gateway, state.model, state.stable)
        target = gateway.deployment.models.get(state.model)
        self._eligible = tuple(name for name in serving if target is None or target.is_on(state.canary, name))
        nodes, of_stable = self.gateway.nodes(state.nodes), self.gateway.nodes(state.stable_nodes)
        if not nodes:
            return f"deployment.yaml names no node of this rollout any more: {', '.join(state.nodes)}"
        described, stable = self._describe(state, state.canary, nodes), self._describe(state, state.stable, of_stable)
        self._grace_s = grace(described, stable)
        for version, places, on in ((state.stable, of_stable, stable), (state.canary, nodes, described)):
            if missing := [node.name for node, version_on in zip(places, on, strict=True) if version_on is None]:
                return f"{state.model} {version} is no longer registered on node {', '.join(missing)}"
            if not any(version_on.ready for version_on in on if version_on is not None):
                return f"no worker of {state.model} {version} is READY on any node"
        self._pids = {}
        for node, canary in zip(nodes, described, strict=True):
            self._pids |= worker_pids(node, canary)
        if trouble := self.archive_trouble(state):
            return trouble
        route = traffic_in_force(gateway).get(state.model)
        if route is None:
            return f"the gateway has no route for {state.model}"
        return changed_weights(route, state)

    def archive_trouble(self, state: State) -> str:
        """Why the store does not have the canary's archive, without which no node could register it again."""
        path = self.archive.path
        name = self.gateway.opened.project.relative(path)
        try:
            found = path.stat()
            mark = found.st_ino, found.st_size, found.st_mtime_ns
            if mark != self._archive_mark and digest_of(path) != state.archive:
                return f"{name} is no longer the archive with which this rollout began"
        except OSError as error:
            return f"{name}, the archive of this rollout, is gone ({error.strerror}); put it back, or abort"
        self._archive_mark = mark
        return ""

    def _describe(self, state: State, version: str, nodes: Sequence[Node]) -> list[ObservedVersion | None]:
        """The version on each of the nodes; raises TemporarilyUnavailable where one does not answer."""
        results = run_on_nodes(nodes, lambda node, note: node.version(state.model, version))
        for result in results:
            if result.error is not None:
                raise TemporarilyUnavailable(f"node {result.node} does not answer: {result.error.summary}")
        return [result.value for result in results]


def grace(canary: Sequence[ObservedVersion | None], stable: Sequence[ObservedVersion | None]) -> float | None:
    """As `Health.grace_s`; a node that has just started may not have its versions back yet. Pure.

    Args:
        canary: the version on each node, None where it is not registered; so is `stable`.
    """
    registered = [version for version in canary if version is not None]
    if any(version.ready for version in registered) or not all(on and on.is_ready for on in stable):
        return None
    return GONE_S + max((version.startup_s for version in registered), default=0)


def nodes_of(gateway: Gateway, model: str, version: str) -> tuple[str, ...]:
    """Names of the nodes that the gateway has for a version."""
    clusters = [up for up in upstreams_written(gateway) if (up.model, up.version) == (model, version)]
    return tuple(endpoint.node for cluster in clusters for endpoint in cluster.endpoints)


def worker_pids(node: Node, version: ObservedVersion | None) -> dict[str, int]:
    """Process ids of READY workers by a name that tells them apart; none on a node of another machine."""
    if version is None or not node.is_here:
        return {}
    return {f"{worker} on {node.name}": pid for worker, pid in zip(version.ids, version.pids, strict=True)}


def read_memory(pids: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each process that still runs."""
    sizes = {name: memory_bytes(pid) for name, pid in pids.items()}
    return {name: size for name, size in sizes.items() if size is not None}


def changed_weights(route: Traffic, state: State) -> str:
    """That somebody else changed the route's weights; empty where nobody did."""
    if (state.is_weighed or not state.weight) and not is_as_decided(route, state):
        decided = weights_text({state.stable: TOTAL - state.weight, state.canary: state.weight})
        return f"somebody else changed the weights: {weights_text(route.weights)}; set {decided} again, or abort"
    return ""


def is_as_decided(route: Traffic, state: State) -> bool:
    """Whether stable and the canary, and no other version, have the weights of the journal."""
    decided = {state.stable: TOTAL - state.weight, state.canary: state.weight}
    return all(route.weights.get(version, 0) == weight for version, weight in decided.items())
