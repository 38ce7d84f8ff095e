"""Applies the effects of a rollout on a cluster, whose pods are made by those who apply manifests, and not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from handlers.contract import CHECK_ANSWER, CHECK_HEADER
from tsctl.archive.known import difference_of, name_of
from tsctl.config.weights import TOTAL
from tsctl.errors import GatewayError, NodeError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.gateway.kubernetes.api import NotThere
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.gateway.kubernetes.names import DIGEST_NOTE, HTTP_PORT, labels, version_name
from tsctl.rollout.decide.events import Effect, EffectDone
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.golden import Golden
from tsctl.rollout.run.interfaces import TemporarilyUnavailable

Json = dict[str, Any]

#: A pod may take this long for a golden sample.
ANSWER_S = 60.0


@dataclass
class ClusterEffects:
    """Weights in an HTTPRoute, and pods that are looked at.

    Args:
        routes: opens the routes as deployment.yaml says now.
        verify: checks the canary's archive, which is on this machine.
        golden: its samples and golden answers.
    """

    routes: Callable[[], HttpRoutes]
    verify: Callable[[State], EffectDone]
    golden: Callable[[], Golden]

    def apply(self, effect: Effect, state: State) -> EffectDone:
        match effect:
            case Effect.VERIFY:
                return self.verify(state)
            case Effect.REGISTER:
                return EffectDone(effect, self._require_pods(state))
            case Effect.VERIFY_GOLDEN:
                return self._verify_golden(state)
            case Effect.SET_WEIGHT:
                self._set_weight(state, state.weight)
                return EffectDone(effect, weight=state.weight)
            case Effect.REVERT_WEIGHT:
                self._set_weight(state, 0)
                return EffectDone(effect)
            case Effect.SET_DEFAULT | Effect.RESTORE_DEFAULT:
                return EffectDone(effect, "the route's stable version, on a cluster")
            case Effect.RETIRE:
                kept = f"{state.stable} keeps its pods: remove it from deployment.yaml, render, and delete its objects"
                return EffectDone(effect, kept)
            case _:
                raise NodeError(f"{effect} is not possible on a cluster")

    def _set_weight(self, state: State, weight: int) -> None:
        canary = {state.canary: weight} if weight else {}
        self.routes().set_weights(state.model, {state.stable: TOTAL - weight, **canary})

    def _require_pods(self, state: State) -> str:
        """All pods of the canary's Deployment are ready, and of the archive with which the rollout began."""
        found = self._deployment(state)
        spec, status = found["spec"], found.get("status") or {}
        notes = (spec["template"]["metadata"].get("annotations") or {}) if "template" in spec else {}
        if notes.get(DIGEST_NOTE) != state.archive:
            raise NodeError(
                f"the cluster has another archive of {state.model} {state.canary}:"
                f" {str(notes.get(DIGEST_NOTE))[:12]}, and this rollout began with {state.archive[:12]}",
                "Render and apply the manifests again.",
            )
        for one in status.get("conditions") or ():
            if one.get("type") == "Progressing" and one.get("reason") == "ProgressDeadlineExceeded":
                raise NodeError(f"the pods of {state.model} {state.canary} do not become ready: {one.get('message')}")
        wanted, ready = int(spec.get("replicas") or 1), int(status.get("readyReplicas") or 0)
        is_seen = int(status.get("observedGeneration") or 0) >= int(found["metadata"].get("generation") or 0)
        if not is_seen or min(ready, int(status.get("updatedReplicas") or 0)) < wanted:
            raise TemporarilyUnavailable(f"{ready} of {wanted} pods of {state.model} {state.canary} are ready")
        return f"{ready} pods ready"

    def _deployment(self, state: State) -> Json:
        api, name = self.routes().api, version_name(state.model, state.canary)
        try:
            return api.get(api.path("apps/v1", "deployments", name))
        except NotThere as error:
            raise GatewayError(
                f"the cluster has no Deployment of {state.model} {state.canary}: {error.message}",
                "Name the version in deployment.yaml, then: tsctl render kubernetes --to DIR, kubectl apply -k DIR",
            ) from None

    def _verify_golden(self, state: State) -> EffectDone:
        """Every ready pod of the canary gives the golden answers, asked through the API server's proxy."""
        api, golden = self.routes().api, self.golden()
        listed = api.items(api.path("v1", "pods"), labels(state.model, state.canary))
        names = sorted(one["metadata"]["name"] for one in listed if _is_ready(one))
        if not names:
            raise TemporarilyUnavailable(f"no pod of {state.model} {state.canary} is ready")
        for name in names:
            self._verify_pod(state, name, golden)
        checked = f"{len(golden.answers) or 'no'} golden samples on {len(names)} pods"
        return EffectDone(Effect.VERIFY_GOLDEN, checked)

    def _verify_pod(self, state: State, name: str, golden: Golden) -> None:
        api = self.routes().api
        path = f"{api.path('v1', 'pods', name)}:{HTTP_PORT}/proxy/predictions/{state.model}"
        for sample in golden.samples:
            if name_of(sample) not in golden.answers:
                continue
            _, body, media_type = sample
            try:
                answer = api.send(path, body, {"content-type": media_type, CHECK_HEADER: CHECK_ANSWER}, ANSWER_S)
            except NotAnswering as error:
                raise TemporarilyUnavailable(f"pod {name} does not answer: {error.message}") from None
            expected = golden.answers[name_of(sample)]
            if why := difference_of(answer.status_code, answer.content, expected, golden.tolerance):
                raise NodeError(f"{state.model} {state.canary} in pod {name} answers {name_of(sample)} wrongly: {why}")


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    is_ending = "deletionTimestamp" in pod["metadata"]
    return not is_ending and any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
