"""Looks at what a rollout on a cluster stands on: ready pods of both versions, and the weights of the route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.health import CheckedHealth, changed_weights

#: A canary may be without a ready pod for this long: a pod that is moved needs it for its worker to load.
GONE_S = 300.0


@dataclass
class ClusterHealth(CheckedHealth):
    """The pods and the route of one rollout. Its autoscaler sees to its capacity, and Kubernetes to its memory."""

    routes: Callable[[], HttpRoutes]

    def capacity(self, state: State) -> float | None:
        return None

    def memory(self, state: State) -> Mapping[str, int]:
        return {}

    def joined(self, state: State) -> tuple[str, ...]:
        return ()

    def _check(self, state: State) -> str:
        routes = self.routes()
        ready = {version: routes.ready_pods(state.model, version) for version in (state.stable, state.canary)}
        if ready[state.stable] and not ready[state.canary]:
            self._grace_s = GONE_S
        for version, pods in ready.items():
            if not pods:
                return f"no pod of {state.model} {version} is ready"
        route = routes.traffic().get(state.model)
        if route is None:
            return f"the cluster has no route for {state.model}"
        return changed_weights(route, state)
