"""Plans for a cluster: weights of deployment.yaml against those of the HTTPRoutes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_kubernetes_render import deployment
from tsctl.deploy.changes import Plan, PlanOptions
from tsctl.deploy.cluster import ObservedCluster, plan_routes, require_no_pruning
from tsctl.deploy.state import Actual
from tsctl.errors import ConflictError, GatewayError, SpecError
from tsctl.gateway.traffic import Traffic
from tsctl.views.plan import effects

READY = {("digits", "1.0"): 2, ("digits", "2.0"): 1}


def plan(weights: dict[str, str] | None, route: dict[str, int] | None, ready: Any = READY, **more: Any) -> Plan:
    model = {"default": "1.0", "versions": {"1.0": None, "2.0": None}, "weights": weights}
    spec, _ = deployment({"traffic": "httproute"}, models={"digits": model})
    routes = {"digits": Traffic("digits", route)} if route else {}
    return plan_routes(spec, ObservedCluster(routes | more.pop("others", {}), ready, Actual((), **more)))


def test_weights_of_the_file_are_a_change_of_the_route() -> None:
    [change] = plan({"1.0": "95%", "2.0": "5%"}, {"1.0": 10_000}).changes
    assert [(one.before, one.after) for one in effects(change)] == [("1.0 100%", "1.0 95%, 2.0 5%")]
    assert plan({"1.0": "95%", "2.0": "5%"}, {"2.0": 500, "1.0": 9500}) == Plan()
    assert plan({"1.0": "100%"}, {"2.0": 0, "1.0": 10_000}) == Plan()
    assert plan(None, {"2.0": 500, "1.0": 9500}) == Plan(), "without weights in the file, they are a rollout's"


@pytest.mark.parametrize(
    ("route", "ready", "says"),
    [
        (None, READY, "the cluster has no HTTPRoute of digits"),
        ({"1.0": 10_000}, {("digits", "1.0"): 2}, "the cluster has no Deployment of digits 2.0"),
        ({"1.0": 10_000}, READY | {("digits", "2.0"): 0}, "no pod of digits 2.0 is ready, so it cannot get weight"),
    ],
)
def test_what_has_to_be_applied_first_is_refused(route: Any, ready: Any, says: str) -> None:
    [refused] = plan({"1.0": "95%", "2.0": "5%"}, route, ready).refusals
    assert (refused.reason, refused.error) == (says, GatewayError)
    assert "kubectl" in refused.hint


def test_the_way_back_asks_for_no_ready_pod() -> None:
    none_ready = dict.fromkeys(READY, 0)
    left = plan({"1.0": "100%"}, {"2.0": 500, "1.0": 9500}, none_ready)
    assert (len(left.changes), left.refusals) == (1, ())


def test_a_rollout_owns_the_weights_until_it_has_ended() -> None:
    [refused] = plan({"1.0": "100%"}, {"2.0": 500, "1.0": 9500}, rollouts={"digits": "x-2.0"}).refusals
    assert refused.error is ConflictError and "rollout x-2.0 of digits has not ended" in refused.reason
    assert not plan(None, {"2.0": 500, "1.0": 9500}, rollouts={"digits": "x-2.0"}).refusals


def test_a_route_that_the_file_does_not_name_is_shown_and_kept() -> None:
    others = {"other": Traffic("other", {"1": 10_000})}
    [kept] = plan(None, {"1.0": 10_000}, others=others).unmanaged
    assert (kept.model, kept.reason) == ("other", "kubectl delete httproute other removes it")


@pytest.mark.parametrize("options", [PlanOptions(prune=True), PlanOptions(prune_models=True)])
def test_nothing_of_a_cluster_is_pruned(options: PlanOptions) -> None:
    with pytest.raises(SpecError, match="versions and routes of this machine's gateway"):
        require_no_pruning(options)
    require_no_pruning(PlanOptions())
