"""Looks at what a rollout on a cluster stands on: ready pods of both versions, and the weights of the route."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tsctl.errors import TsctlError
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.health import CHECK_S, changed_weights

#: A canary may be without a ready pod for this long: a pod that is moved needs it for its worker to load.
GONE_S = 300.0


@dataclass
class ClusterHealth:
    """The pods and the route of one rollout. Its autoscaler sees to its capacity, and Kubernetes to its memory."""

    routes: Callable[[], HttpRoutes]
    clock: Callable[[], float] = time.monotonic
    _checked: tuple[float, int, bool] | None = None
    _trouble: str = ""
    _grace_s: float | None = None

    def capacity(self, state: State) -> float | None:
        return None

    def memory(self, state: State) -> Mapping[str, int]:
        return {}

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        """Checked anew every CHECK_S, and when the weight has changed."""
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
