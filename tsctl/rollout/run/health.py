"""Looks at the nodes, workers and weights of a running rollout."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tsctl.config.weights import TOTAL
from tsctl.gateway.state import Gateway, traffic_in_force
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.host.process import memory_bytes
from tsctl.nodes.fan_out import run_on_nodes
from tsctl.nodes.torchserve.client import VersionState
from tsctl.nodes.torchserve.node import Node
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.interfaces import TemporarilyUnavailable

#: Nodes and weights are checked this often.
CHECK_S = 2.0


@dataclass
class LiveHealth:
    """The canary's nodes and workers, and the weights in force.

    Args:
        nodes: that serve stable.
    """

    gateway: Gateway
    nodes: Sequence[Node]
    clock: Callable[[], float] = time.monotonic
    _checked: tuple[float, int, bool] | None = None  # when, and at which weight
    _trouble: str = ""
    _pids: dict[str, int] = field(default_factory=dict)

    def capacity(self, state: State) -> float | None:
        """As measured before the first step, scaled to the workers that are READY now."""
        if state.requests_per_s is None or not state.measured_workers:
            return state.requests_per_s
        ready = sum(version.ready_workers for versions in self._describe(state) for version in versions)
        if not ready:
            raise TemporarilyUnavailable(f"no worker of {state.model} {state.canary} is READY on any node")
        return state.requests_per_s * ready / state.measured_workers

    def memory(self, state: State) -> Mapping[str, int]:
        """Of the workers on this machine that the last check saw."""
        return read_memory(self._pids)

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        """Checked anew every CHECK_S, and when the weight has changed."""
        now = self.clock()
        is_known = self._checked is not None and self._checked[1:] == (state.weight, state.is_weighed)
        if is_fresh or self._checked is None or not is_known or now - self._checked[0] >= CHECK_S:
            self._trouble = self._check(state)
            self._checked = (self.clock(), state.weight, state.is_weighed)
        return self._trouble

    def _check(self, state: State) -> str:
        if not self.gateway.admin.is_live():  # Prometheus would not tell
            return "the gateway does not run"
        try:
            described = self._describe(state)
        except TemporarilyUnavailable as error:
            return error.message
        pids: dict[str, int] = {}
        for node, versions in zip(self.nodes, described, strict=True):
            if not versions:
                return f"{state.model} {state.canary} is no longer registered on node {node.name}"
            pids |= worker_pids(node, versions)
        self._pids = pids
        route = traffic_in_force(self.gateway).get(state.model)
        if route is None:
            return f"the gateway has no route for {state.model}"
        if (state.is_weighed or not state.weight) and not is_as_decided(route, state):
            return f"somebody else changed the weights: {weights_text(route.weights)}"
        return ""

    def _describe(self, state: State) -> list[list[VersionState]]:
        """The canary on each node; raises TemporarilyUnavailable where one does not answer."""
        results = run_on_nodes(self.nodes, lambda node, note: node.client.describe(state.model, state.canary))
        for result in results:
            if result.error is not None:
                raise TemporarilyUnavailable(f"node {result.node} does not answer: {result.error.summary}")
        return [result.value or [] for result in results]


def worker_pids(node: Node, versions: Sequence[VersionState]) -> dict[str, int]:
    """Process ids of READY workers by a name that tells them apart; none on a node of another machine."""
    workers = [worker for version in versions for worker in version.workers if worker.is_ready] if node.is_here else []
    return {f"{worker.id} on {node.name}": worker.pid for worker in workers}


def read_memory(pids: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each process that still runs."""
    sizes = {name: memory_bytes(pid) for name, pid in pids.items()}
    return {name: size for name, size in sizes.items() if size is not None}


def is_as_decided(route: Traffic, state: State) -> bool:
    """Whether stable and the canary, and no other version, have the weights of the journal."""
    decided = {state.stable: TOTAL - state.weight, state.canary: state.weight}
    return all(route.weights.get(version, 0) == weight for version, weight in decided.items())
