"""Traffic that HTTPRoutes of a cluster carry: read from the API server, changed there, and read back.

Invariant: a write is decided on what the server had last. One that meets a newer route is decided anew where only
something else of it has changed, and given up where somebody else has changed its traffic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsctl.config.deployment import DeploymentSpec, RouteSpec
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.api import ApiServer, NotThere, Outdated, open_api
from tsctl.gateway.kubernetes.http_routes import API_VERSION, PLURAL, traffic_of, with_traffic
from tsctl.gateway.kubernetes.names import MODEL_NOTE, VERSION_NOTE, labels, model_name, version_name
from tsctl.gateway.traffic import Shadow, Traffic, weights_text

Json = dict[str, Any]

#: A route that others write at the same time is decided on anew so often.
TRIES = 8
#: A gateway's controller must accept a changed route within this time.
ACCEPTED_S = 30.0
POLL_S = 0.25
#: Conditions of a route, of which each Gateway that it attaches to has its own.
_ACCEPTED, _RESOLVED = "Accepted", "ResolvedRefs"


@dataclass(frozen=True)
class HttpRoutes:
    """The HTTPRoutes of one namespace, as `tsctl render kubernetes` wrote them."""

    api: ApiServer
    kubernetes: KubernetesSpec
    deployment: DeploymentSpec
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    accepted_s: float = ACCEPTED_S

    def is_live(self) -> bool:
        """Whether the server answers; that there is a gateway is seen when a route is accepted."""
        try:
            self.api.items(self.api.path(API_VERSION, PLURAL), _MANAGED)
        except NotAnswering:
            return False
        return True

    def traffic(self) -> dict[str, Traffic]:
        routes = self.api.items(self.api.path(API_VERSION, PLURAL), _MANAGED)
        read = [self._traffic(route) for route in routes if MODEL_NOTE in (route["metadata"].get("annotations") or {})]
        return {one.model: one for one in sorted(read, key=lambda one: one.model)}

    def versions(self, model: str) -> Collection[str]:
        """Those that have a Deployment."""
        return self.all_ready_pods(model).keys()

    def set_weights(self, model: str, weights: Mapping[str, int]) -> Traffic:
        answering = [version for version, weight in weights.items() if weight]
        return self._change(model, lambda traffic: traffic.weighted(weights), answering, list(weights))

    def set_shadow(self, model: str, version: str | None, share: int) -> Traffic:
        shadow = Shadow(version, share) if version is not None and share else None
        named = [shadow.version] if shadow is not None else []
        return self._change(model, lambda traffic: replace(traffic, shadow=shadow), named, named)

    def ready_pods(self, model: str, version: str) -> int:
        """Pods of the version that can answer; NotThere where it has no Deployment."""
        return _ready(self.api.get(self.api.path("apps/v1", "deployments", version_name(model, version))))

    def all_ready_pods(self, model: str) -> dict[str, int]:
        """Pods that can answer, of each version that has a Deployment."""
        found = self.api.items(self.api.path("apps/v1", "deployments"), labels(model))
        notes = [(one["metadata"].get("annotations") or {}).get(VERSION_NOTE) for one in found]
        return {note: _ready(one) for note, one in zip(notes, found, strict=True) if note}

    def _change(
        self,
        model: str,
        edit: Callable[[Traffic], Traffic],
        answering: Collection[str],  # versions that must be able to answer
        named: Collection[str],  # versions that need a Service
    ) -> Traffic:
        path = self.api.path(API_VERSION, PLURAL, model_name(model))
        route = self._route(path, model)
        decided_on = self._traffic(route)
        self._require_served(model, [version for version in named if version not in decided_on.versions])
        self._require_ready(model, [version for version in answering if not decided_on.weights.get(version)])
        wanted = edit(decided_on)
        for _ in range(TRIES):
            changed = with_traffic(route, self.kubernetes, wanted, self._spec(model))
            if _owned(changed) == _owned(route):
                self._wait_accepted(path, route, wanted)
                return wanted
            try:
                written = self.api.patch(path, _patch(route, changed), route["metadata"]["resourceVersion"])
            except Outdated:
                route = self._route(path, model)
                now = self._traffic(route)
                if now not in (decided_on, wanted):
                    raise ConflictError(
                        f"somebody else changed the traffic of {model} meanwhile: {weights_text(now.weights)}",
                        "Look at it with 'tsctl weights show', and decide again.",
                    ) from None
                continue
            self._wait_accepted(path, written, wanted, route)
            return wanted
        raise ConflictError(f"HTTPRoute {model_name(model)} was changed by others {TRIES} times in a row", "Try again.")

    def _wait_accepted(self, path: str, written: Json, wanted: Traffic, before: Json | None = None) -> None:
        """Waits until every Gateway has accepted the route as it was written; else the one of before is put back."""
        generation, why, end = written["metadata"].get("generation", 0), "", self.clock() + self.accepted_s
        while True:
            route = self._route(path, wanted.model)
            now = self._traffic(route)
            if now != wanted:
                raise ConflictError(
                    f"somebody else changed the traffic of {wanted.model} right after: {weights_text(now.weights)}",
                    "Look at it with 'tsctl weights show', and decide again.",
                )
            why, is_refused = _trouble(route, generation)
            if not why:
                return
            if is_refused or self.clock() >= end:
                break
            self.sleep(POLL_S)
        kept = self._put_back(path, route, before)
        raise GatewayError(f"the gateway did not take the change, {kept}: {why}", "See kubectl describe httproute.")

    def _put_back(self, path: str, route: Json, before: Json | None) -> str:
        """Put the former rules back; what has become of the change, in a few words."""
        if before is None:
            return "which the route has already"
        try:
            self.api.patch(path, _patch(route, before), route["metadata"]["resourceVersion"])
        except Outdated:
            return "and the route was changed since"
        return "and what was in force is back"

    def _route(self, path: str, model: str) -> Json:
        try:
            return self.api.get(path)
        except NotThere as error:
            raise GatewayError(f"no route for model {model!r}: {error.message}", error.hint) from None

    def _traffic(self, route: Json) -> Traffic:
        target = self.deployment.models.get((route["metadata"].get("annotations") or {}).get(MODEL_NOTE, ""))
        return traffic_of(route, target.versions if target is not None else ())

    def _spec(self, model: str) -> RouteSpec:
        target = self.deployment.models.get(model)
        return target.route if target is not None else RouteSpec()

    def _require_served(self, model: str, versions: Collection[str]) -> None:
        for version in versions:
            try:
                self.api.get(self.api.path("v1", "services", version_name(model, version)))
            except NotThere:
                raise GatewayError(
                    f"the cluster has no Service of {model} {version} in namespace {self.api.namespace}",
                    "Name the version in deployment.yaml, then: tsctl render kubernetes --to DIR, kubectl apply -k DIR",
                ) from None

    def _require_ready(self, model: str, versions: Collection[str]) -> None:
        """Some pod of each version that is to get its first traffic is ready."""
        for version in versions:
            try:
                ready = self.ready_pods(model, version)
            except NotThere as error:
                raise GatewayError(
                    f"{model} {version} has no Deployment, so it cannot get traffic", error.hint
                ) from None
            if not ready:
                raise GatewayError(
                    f"no pod of {model} {version} is ready, so it cannot get traffic",
                    f"See kubectl -n {self.api.namespace} describe deployment {version_name(model, version)}",
                )


def open_http_routes(deployment: DeploymentSpec, kubernetes: KubernetesSpec) -> HttpRoutes:
    """The routes on the cluster of the context; nothing is asked."""
    return HttpRoutes(open_api(kubernetes), kubernetes, deployment)


_MANAGED = {"app.kubernetes.io/managed-by": "tsctl"}


def _ready(deployment: Json) -> int:
    return int((deployment.get("status") or {}).get("readyReplicas") or 0)


def _owned(route: Mapping[str, Any]) -> tuple[Any, Any]:
    """What tsctl writes of a route."""
    return route["metadata"].get("annotations"), route["spec"].get("rules")


def _patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """The merge patch from one state of a route to another; a list is replaced whole, and a key that is null goes."""
    old, new = (dict(one["metadata"].get("annotations") or {}) for one in (before, after))
    notes = {**dict.fromkeys(old.keys() - new.keys()), **{k: v for k, v in new.items() if old.get(k) != v}}
    return {"metadata": {"annotations": notes}, "spec": {"rules": after["spec"]["rules"]}}


def _trouble(route: Json, generation: int) -> tuple[str, bool]:
    """Why the route is not in force yet, and whether a Gateway has refused it; empty where it is.

    Each Gateway that the route names must have accepted it. One that it named before may still have an entry.
    """
    gateways = route["spec"].get("parentRefs") or ()
    if not gateways:
        return "the route names no Gateway", True
    namespace = route["metadata"].get("namespace", "")
    said = {
        _identity(one.get("parentRef", {}), namespace): one for one in (route.get("status") or {}).get("parents") or ()
    }
    for gateway in gateways:
        name, parent = gateway.get("name", ""), said.get(_identity(gateway, namespace))
        if parent is None:
            return f"no controller of Gateway {name} has looked at the route", False
        conditions = {one["type"]: one for one in parent.get("conditions") or ()}
        for kind in (_ACCEPTED, _RESOLVED):
            one = conditions.get(kind)
            if one is None or one.get("observedGeneration", 0) < generation:
                return f"Gateway {name} has not said {kind} of generation {generation}", False
            if one.get("status") != "True":
                return f"Gateway {name}: {kind} is {one.get('status')}: {one.get('reason')}: {one.get('message')}", True
    return "", False


def _identity(reference: Mapping[str, Any], namespace: str) -> tuple[Any, ...]:
    """What a reference to a Gateway names, with the defaults of the Gateway API."""
    return (
        reference.get("group", "gateway.networking.k8s.io"),
        reference.get("kind", "Gateway"),
        reference.get("namespace") or namespace,
        reference.get("name"),
        reference.get("sectionName"),
        reference.get("port"),
    )
