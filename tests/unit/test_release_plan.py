"""Plans: what they change, in which order, and what they refuse; one that was made leaves nothing to change."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.archive import inspect
from tsctl.archive.container import digest_of
from tsctl.archive.inspect import facts_of
from tsctl.archive.store import store_name
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.deploy.applied_state import as_applied, recorded, remember, remember_applied
from tsctl.deploy.apply import Applied, Failure
from tsctl.deploy.changes import (
    GATEWAY,
    Change,
    Configure,
    Plan,
    PlanOptions,
    Register,
    RemoveRoute,
    Replace,
    Retire,
    Scale,
    SetDefault,
    SetWeights,
    phase,
)
from tsctl.deploy.desired import desired_state
from tsctl.deploy.plan import make_plan
from tsctl.deploy.preconditions import error_of
from tsctl.deploy.reconcile import coverage_error, failure_error
from tsctl.deploy.state import (
    Actual,
    Desired,
    GatewayState,
    WantedModel,
    WantedVersion,
)
from tsctl.errors import ArchiveError, ConflictError, GatewayError, NodeError, SpecError
from tsctl.gateway.envoy.render.clusters import MOST_VERSIONS
from tsctl.gateway.traffic import Shadow, Traffic, only
from tsctl.nodes.node import Unreachable
from tsctl.nodes.observed import ObservedModel, ObservedNode, ObservedVersion
from tsctl.views.plan import applied_json, change_json, effects, plan_json, render_plan, summary

DIGESTS = {"1.0": "aaaaaaaaaaaa", "2.0": "bbbbbbbbbbbb", "3.0": "cccccccccccc", "9.0": "dddddddddddd"}


def archive(version: str, model: str = "tiny") -> str:
    return store_name(model, version, DIGESTS[version])


def version(name: str, workers: int | None = 1, **more: Any) -> WantedVersion:
    return replace(WantedVersion(name, archive(name), DIGESTS[name], workers=workers), **more)


def wanted(*versions: WantedVersion, default: str = "1.0", shares: Mapping[str, int] | None = None) -> Desired:
    return Desired((WantedModel("tiny", default, versions, shares),))


def node(name: str, default: str | None = "1.0", **versions: tuple[int, int]) -> ObservedNode:
    """A node with versions such as `v1=(workers, ready)`."""
    found = {f"{key[1:]}.0": ObservedVersion(archive(f"{key[1:]}.0"), *state) for key, state in versions.items()}
    return ObservedNode(name, {"tiny": ObservedModel(default, found)} if found else {})


def unavailable(name: str) -> ObservedNode:
    return ObservedNode(name, error=Unreachable("no connection"))


def actual(*nodes: ObservedNode, weights: Mapping[str, int] | None = None, is_live: bool = True, **more: Any) -> Actual:
    routes = {"tiny": Traffic("tiny", weights)} if weights else {}
    return Actual(nodes, GatewayState(is_live, routes), **more)


def changes_of(plan: Plan) -> list[tuple[str, str | None, list[tuple[str, str, str]]]]:
    """Kind, version and steps of every change."""
    return [
        (change.kind, change.version, [(effect.place, effect.before, effect.after) for effect in effects(change)])
        for change in plan.changes
    ]


ONE, TWO = version("1.0"), version("2.0")
ONE_ON_A = ObservedVersion(archive("1.0"), 1, 1)
ALL = {"1.0": TOTAL}


def test_nothing_changes_where_nodes_serve_what_deployment_says() -> None:
    plan = make_plan(wanted(ONE, TWO), actual(node("a", v1=(1, 1), v2=(1, 1)), weights=ALL))
    assert plan == Plan()
    assert plan.is_empty
    assert summary(plan) == "nothing to change"


def test_from_nothing_the_default_comes_first_and_gets_the_route() -> None:
    plan = make_plan(wanted(TWO, version("1.0", 2)), actual(node("a"), node("b")))
    assert changes_of(plan) == [
        ("register", "1.0", [(n, "nothing", f"{archive('1.0')}, 2 workers") for n in "ab"]),
        ("register", "2.0", [(n, "nothing", f"{archive('2.0')}, 1 worker") for n in "ab"]),
        ("weights", None, [(GATEWAY, "no route", "1.0 100%")]),
    ]


def test_capacity_grows_before_traffic_moves_and_shrinks_afterwards() -> None:
    desired = wanted(
        version("1.0", 1), version("2.0", 3), version("3.0"), default="2.0", shares={"1.0": 0, "2.0": TOTAL}
    )
    state = actual(node("a", v1=(3, 3), v2=(1, 1), v9=(1, 1)), weights={"9.0": 0, "1.0": TOTAL})
    assert changes_of(make_plan(desired, state, PlanOptions(prune=True))) == [
        ("register", "3.0", [("a", "nothing", f"{archive('3.0')}, 1 worker")]),
        ("scale", "2.0", [("a", "1 worker", "3 workers")]),
        ("weights", None, [(GATEWAY, "1.0 100%", "2.0 100%")]),
        ("default", "2.0", [("a", "1.0", "2.0")]),
        ("scale", "1.0", [("a", "3 workers", "1 worker")]),
        ("retire", "9.0", [("a", f"{archive('9.0')}, 1 worker", "nothing")]),
    ]


@pytest.mark.parametrize(
    ("found", "workers", "step"),
    [
        ((1, 1), 2, ("1 worker", "2 workers")),
        ((2, 1), 2, ("2 workers, 1 ready", "2 workers")),  # one died, or still loads
        ((0, 0), None, ("0 workers", "1 worker")),  # registered by somebody who was killed then
        ((3, 2), None, ("3 workers, 2 ready", "3 workers")),
    ],
)
def test_workers_are_scaled_to_the_number_asked_for(
    found: tuple[int, int], workers: int | None, step: tuple[str, str]
) -> None:
    state = actual(node("a", v1=found), node("b", v1=(workers or found[0] or 1,) * 2), weights=ALL)
    [change] = make_plan(wanted(version("1.0", workers)), state).changes
    assert [(one.place, one.before, one.after) for one in effects(change)] == [("a", *step)]
    assert isinstance(change, Scale)
    assert not change.is_down


def test_a_version_keeps_its_workers_where_no_number_is_asked_for() -> None:
    assert make_plan(wanted(version("1.0", None)), actual(node("a", v1=(4, 4)), weights=ALL)).is_empty


def test_settings_of_an_engine_that_differ_are_a_change() -> None:
    on_ray: dict[str, Any] = {"num_cpus": 0.5, "max_replicas": None, "python": None}
    served = node("a", v1=(1, 1))
    was = replace(ONE_ON_A, settings={**on_ray, "num_cpus": 1.0, "python": "/opt/python"})
    served = replace(served, models={"tiny": ObservedModel("1.0", {"1.0": was})})
    plan = make_plan(wanted(replace(ONE, settings={"a": on_ray})), actual(served, weights=ALL))
    was_text, is_text = "num_cpus 1.0, python /opt/python", "num_cpus 0.5, python none"
    assert changes_of(plan) == [("configure", "1.0", [("a", was_text, is_text)])]
    assert change_json(plan.changes[0])["settings"] == {"a": on_ray}
    same = replace(was, settings=on_ray)
    served = replace(served, models={"tiny": ObservedModel("1.0", {"1.0": same})})
    assert make_plan(wanted(replace(ONE, settings={"a": on_ray})), actual(served, weights=ALL)).is_empty


def test_weights_are_left_alone_where_deployment_does_not_say_them() -> None:
    state = actual(node("a", v1=(1, 1), v2=(1, 1)), weights={"2.0": 4000, "1.0": 6000})
    assert make_plan(wanted(ONE, TWO), state).is_empty
    desired = wanted(ONE, TWO, shares={"1.0": 9500, "2.0": 500})
    assert changes_of(make_plan(desired, state)) == [
        ("weights", None, [(GATEWAY, "1.0 60%, 2.0 40%", "1.0 95%, 2.0 5%")])
    ]


def test_a_version_with_no_weight_need_not_stand_in_the_route() -> None:
    desired = wanted(ONE, TWO, shares={"1.0": TOTAL, "2.0": 0})
    assert make_plan(desired, actual(node("a", v1=(1, 1), v2=(1, 1)), weights=ALL)).is_empty


def test_weights_wait_for_a_gateway_that_does_not_run() -> None:
    desired = wanted(ONE, TWO, shares={"1.0": 9500, "2.0": 500})
    plan = make_plan(desired, actual(node("a", v1=(1, 1)), weights=ALL, is_live=False))
    assert [change.kind for change in plan.changes] == ["register"]
    error = coverage_error(plan)
    assert isinstance(error, GatewayError)
    assert "the weights of tiny stay" in error.message


def test_without_a_gateway_there_are_no_weights() -> None:
    desired = wanted(ONE, shares=ALL)
    plan = make_plan(desired, Actual((node("a", v1=(1, 1), v9=(1, 1)),)), PlanOptions(prune=True))
    assert plan.changes == ()
    assert [(one.description, one.version) for one in plan.unmanaged] == [("weights", None), ("1 worker", "9.0")]
    assert "tsctl models unregister tiny 9.0" in plan.unmanaged[1].reason


def test_an_unavailable_node_is_reported_and_the_others_are_changed() -> None:
    plan = make_plan(wanted(ONE), actual(unavailable("a"), node("b")))
    assert [effects(change)[0].place for change in plan.changes] == ["b", GATEWAY]
    error = coverage_error(plan)
    assert isinstance(error, NodeError)
    assert "no answer from a" in error.message
    assert "a is unavailable" in summary(plan)


def test_where_no_node_answers_nothing_is_changed() -> None:
    desired = wanted(ONE, TWO, shares={"1.0": 9500, "2.0": 500})
    plan = make_plan(desired, actual(unavailable("a"), unavailable("b"), weights=ALL), PlanOptions(prune=True))
    assert plan.changes == ()
    assert [one.place for one in plan.unavailable] == ["a", "b"]


def test_an_unnamed_version_stays_until_it_is_pruned() -> None:
    state = actual(node("a", v1=(1, 1), v9=(2, 1)), node("b", default="1.0", v1=(1, 1)), weights=ALL)
    plan = make_plan(wanted(ONE), state)
    assert plan.is_empty
    assert render_plan(plan).plain.splitlines() == [
        "tiny",
        "  ? 9.0  kept  a  2 workers, 1 ready, not in deployment.yaml (--prune retires it)",
        "",
        "nothing to change, 1 not in deployment.yaml",
    ]
    assert changes_of(make_plan(wanted(ONE), state, PlanOptions(prune=True))) == [
        ("retire", "9.0", [("a", f"{archive('9.0')}, 2 workers, 1 ready", "nothing")])
    ]


@pytest.mark.parametrize(
    ("route", "why"),
    [
        (Traffic("tiny", {"9.0": 500, "1.0": 9500}), "it has 5% of the requests"),
        (Traffic("tiny", {"1.0": TOTAL, "9.0": 0}), "it is stable until another version has 100%"),
        (Traffic("tiny", ALL, shadow=Shadow("9.0", 100)), "it gets copies of requests: tsctl shadow clear tiny"),
    ],
)
def test_a_version_with_weight_or_copies_is_never_pruned(route: Traffic, why: str) -> None:
    state = replace(actual(node("a", v1=(1, 1), v9=(1, 1))), gateway=GatewayState(True, {"tiny": route}))
    plan = make_plan(wanted(ONE), state, PlanOptions(prune=True))
    assert plan.changes == ()
    [kept] = plan.unmanaged
    assert kept.reason.startswith(why)


def test_a_version_loses_its_weight_before_it_is_retired() -> None:
    state = actual(node("a", v1=(1, 1), v9=(1, 1)), weights={"1.0": 5000, "9.0": 5000})
    plan = make_plan(wanted(ONE, shares=ALL), state, PlanOptions(prune=True))
    assert [(change.kind, change.version) for change in plan.changes] == [("weights", None), ("retire", "9.0")]


def test_an_unnamed_model_keeps_its_route_unless_models_are_pruned() -> None:
    state = actual(node("a", default="2.0", v1=(1, 1), v2=(1, 1)), weights=ALL)
    plan = make_plan(Desired(()), state, PlanOptions(prune=True))
    assert [(one.kind, one.version) for one in plan.changes] == [("retire", "2.0")]
    assert [(one.version, one.place) for one in plan.unmanaged] == [(None, GATEWAY), ("1.0", "a")]
    whole = make_plan(Desired(()), state, PlanOptions(prune_models=True))
    assert [(one.kind, one.version) for one in whole.changes] == [
        ("route", None),
        ("retire", "1.0"),
        ("retire", "2.0"),  # a node's default goes last
    ]


PIN = DIGESTS["1.0"]
LACKING = actual(node("a"), weights=ALL)
SERVED = actual(node("a", v1=(1, 1)), weights=ALL)
HAS_OTHER = Actual(
    (
        ObservedNode(
            "a", {"tiny": ObservedModel("1.0", {"1.0": ObservedVersion(store_name("tiny", "1.0", "e" * 12), 1, 1)})}
        ),
    ),
    GatewayState(True, {"tiny": only("tiny", "1.0")}),
)


@pytest.mark.parametrize(
    ("desired", "state", "error", "reason"),
    [
        (wanted(version("1.0", archive=None)), LACKING, ArchiveError, "no archive of tiny 1.0 is in the store"),
        (
            wanted(version("1.0", archive=None, pin="e" * 16, others=(archive("1.0"),))),
            LACKING,
            ArchiveError,
            f"pins tiny 1.0 to {'e' * 16}, and the store has {archive('1.0')}",
        ),
        (wanted(version("1.0", archive=None, pin="e" * 12)), LACKING, ArchiveError, "and the store has none of it"),
        (
            wanted(version("1.0", pin=PIN, digest="f" * 64)),
            SERVED,
            ArchiveError,
            f"pins tiny 1.0 to {PIN}, and the SHA-256 of {archive('1.0')} is {'f' * 64}",
        ),
        (wanted(version("1.0", recorded="e" * 12)), LACKING, ConflictError, "was served from other bytes before, eee"),
        (wanted(ONE), HAS_OTHER, ConflictError, f"from other bytes than {archive('1.0')}: tiny-1.0-eee"),
        (wanted(version("1.0", archive=None, pin=PIN)), HAS_OTHER, ConflictError, f"from other bytes than {PIN}: tiny"),
        (
            wanted(version("1.0", archive=None)),
            replace(HAS_OTHER, nodes=(*HAS_OTHER.nodes, node("b", v1=(1, 1)))),
            ConflictError,
            "nodes have tiny 1.0 from different bytes",
        ),
        (
            wanted(version("1.0", 1)),
            actual(node("a", v1=(3, 1)), weights=ALL),
            GatewayError,
            "may leave its route without a READY one",
        ),
        (  # a version with a share of the requests, while the other one answers
            wanted(ONE, version("2.0", 1)),
            actual(node("a", v1=(1, 1), v2=(3, 1)), weights={"2.0": 2000, "1.0": 8000}),
            GatewayError,
            "fewer workers of tiny 2.0 may leave its route without a READY one",
        ),
    ],
)
def test_refused(desired: Desired, state: Actual, error: type[Exception], reason: str) -> None:
    plan = make_plan(desired, state)
    [found] = plan.refusals
    assert (found.error, reason in found.reason) == (error, True), found
    assert not plan.is_empty
    assert isinstance(coverage_error(plan), error)
    assert plan_json(plan)["refusals"][0]["exit_code"] == found.error.exit_code
    assert any(line.startswith("  x ") and reason in line for line in render_plan(plan).plain.splitlines())


@pytest.mark.parametrize(
    ("desired", "state"),
    [
        (wanted(version("1.0", archive=None)), SERVED),  # every node has it already
        (wanted(version("1.0", archive=None, pin=PIN)), SERVED),
        (wanted(version("1.0", pin=f"{PIN}{'0' * 20}", digest=f"{PIN}{'0' * 52}")), SERVED),
        (wanted(version("1.0", recorded="e" * 12)), SERVED),
    ],
)
def test_not_refused(desired: Desired, state: Actual) -> None:
    assert make_plan(desired, state).is_empty


def test_more_versions_than_a_gateway_takes_are_refused() -> None:
    names = [f"{number}.0" for number in range(MOST_VERSIONS + 1)]

    def state(served: int) -> Actual:
        versions = {name: ObservedVersion(archive("1.0"), 1, 1) for name in names[:served]}
        return actual(ObservedNode("a", {"many": ObservedModel("1.0", versions)}))

    assert make_plan(wanted(ONE), state(MOST_VERSIONS - 1)).refusals == ()
    assert make_plan(wanted(ONE), replace(state(MOST_VERSIONS), gateway=None)).refusals == ()
    assert make_plan(Desired(()), state(MOST_VERSIONS + 1)).refusals == ()  # they are there already
    [refused] = make_plan(wanted(ONE), state(MOST_VERSIONS)).refusals
    assert refused.error is GatewayError
    assert refused.reason == "one gateway takes 1,000 versions, and with this plan there are 1,001"


def test_weight_on_what_no_node_can_have_ready_is_refused() -> None:
    desired = wanted(ONE, version("2.0", archive=None), shares={"1.0": 9500, "2.0": 500})
    plan = make_plan(desired, SERVED)
    assert [(one.error, one.version) for one in plan.refusals] == [(ArchiveError, "2.0"), (GatewayError, "2.0")]
    assert "tiny 2.0 is ready on no node" in plan.refusals[1].reason
    error = error_of(plan.refusals)
    assert isinstance(error, ArchiveError)
    assert "no archive of tiny 2.0" in error.message
    assert "ready on no node" in error.message
    assert "tsctl archive build tiny:2.0" in error.hint


def test_a_model_whose_rollout_has_not_ended_is_not_changed() -> None:
    during = replace(SERVED, rollouts={"tiny": "20260101T000000Z-2.0"})
    assert make_plan(wanted(ONE), during).is_empty
    [refused] = make_plan(wanted(ONE, TWO), during).refusals
    assert refused.error is ConflictError
    assert "20260101T000000Z-2.0" in refused.reason
    other = replace(SERVED, rollouts={"other": "id"})
    assert not make_plan(wanted(ONE, TWO), other).refusals


# ---- making the changes ----------------------------------------------------------------------------------------------


@dataclass
class FakeDeployment:
    """Nodes and routes that a plan changes as TorchServe and Envoy would; a change that those refuse fails the test."""

    nodes: dict[str, ObservedNode]
    gateway: GatewayState | None

    @property
    def actual(self) -> Actual:
        return Actual(tuple(self.nodes.values()), self.gateway)

    def make(self, change: Change) -> None:
        for name in change.nodes:
            assert self.nodes[name].error is None
        match change:
            case Register():
                for name in change.nodes:
                    served = self.nodes[name].models.get(change.model, ObservedModel(None, {}))
                    assert change.version not in served.versions
                    self._put(
                        name,
                        change.model,
                        change.version,
                        ObservedVersion(change.archive, change.workers, change.workers),
                    )
                    if not served.versions:
                        self._default(name, change.model, change.version)
            case Replace():
                for name, was in change.before.items():
                    assert self.nodes[name].version(change.model, change.version) == was
                    assert was.archive != change.archive
                    self._put(
                        name,
                        change.model,
                        change.version,
                        ObservedVersion(change.archive, change.workers, change.workers),
                    )
            case Scale():
                for name, was in change.before.items():
                    assert self.nodes[name].version(change.model, change.version) == was
                    least = max(0, was.ready - max(0, was.workers - change.workers))
                    self._put(name, change.model, change.version, replace(was, ready=least))
                self.check()
                for name, was in change.before.items():
                    self._put(
                        name, change.model, change.version, ObservedVersion(was.archive, change.workers, change.workers)
                    )
            case Configure():
                for name, was in change.before.items():
                    assert self.nodes[name].version(change.model, change.version) == was
                    ready = replace(was, settings=change.settings[name], ready=was.workers)
                    self._put(name, change.model, change.version, ready)
            case SetWeights():
                assert self.gateway is not None
                assert self.gateway.is_live
                for version in change.weights:
                    assert any(one.is_ready for one in self.actual.on(change.model, version).values())
                route = self.gateway.traffic.get(change.model) or only(change.model, next(iter(change.weights)))
                self._route(change.model, route.weighted(change.weights))
            case SetDefault():
                for name in change.nodes:
                    state = self.nodes[name].version(change.model, change.version)
                    assert state is not None
                    assert state.is_ready
                    self._default(name, change.model, change.version)
            case RemoveRoute():
                self._route(change.model, None)
            case Retire():
                current = self.actual.route(change.model)
                if current is not None:
                    self._route(change.model, current.without(change.version))  # ValueError where it has weight
                for name in change.nodes:
                    self._remove(name, change.model, change.version)
        self.check()

    def watch(self) -> None:
        """From now on each route that has a READY version keeps one, however it is called."""
        self.watched = {model for model in self.actual.models if self._can_answer(model)}

    def check(self) -> None:
        for model in self.watched:
            assert self.actual.route(model) is None or self._can_answer(model)

    def _can_answer(self, model: str) -> bool:
        route = self.actual.route(model)
        weighted = [version for version, share in route.weights.items() if share] if route else []
        return any(state.ready for version in weighted for state in self.actual.on(model, version).values())

    def _model(self, name: str, model: str, served: ObservedModel | None) -> None:
        models = {key: value for key, value in self.nodes[name].models.items() if key != model}
        self.nodes[name] = replace(self.nodes[name], models={**models, **({model: served} if served else {})})

    def _put(self, name: str, model: str, version: str, state: ObservedVersion) -> None:
        served = self.nodes[name].models.get(model, ObservedModel(None, {}))
        self._model(name, model, replace(served, versions={**served.versions, version: state}))

    def _default(self, name: str, model: str, version: str) -> None:
        self._model(name, model, replace(self.nodes[name].models[model], default=version))

    def _remove(self, name: str, model: str, version: str) -> None:
        served = self.nodes[name].models[model]
        rest = {key: state for key, state in served.versions.items() if key != version}
        default = next(iter(rest), None) if served.default == version else served.default
        self._model(name, model, ObservedModel(default, rest) if rest else None)

    def _route(self, model: str, route: Traffic | None) -> None:
        assert self.gateway is not None
        traffic = {key: one for key, one in self.gateway.traffic.items() if key != model}
        self.gateway = replace(self.gateway, traffic={**traffic, **({model: route} if route else {})})


NAMES = ("1.0", "2.0", "3.0", "9.0")
MODELS = ("tiny", "other")


@st.composite
def shares(draw: st.DrawFn, names: list[str]) -> dict[str, int]:
    """Weights of versions, 0 among them, that sum to TOTAL."""
    parts = draw(st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names)).filter(any))
    whole = {name: part * TOTAL // sum(parts) for name, part in zip(names, parts, strict=True)}
    last = next(name for name in names if whole[name])
    return {**whole, last: whole[last] + TOTAL - sum(whole.values())}


@st.composite
def wanted_models(draw: st.DrawFn) -> Desired:
    found = []
    for model in draw(st.lists(st.sampled_from(MODELS), unique=True)):
        names = draw(st.lists(st.sampled_from(NAMES[:3]), min_size=1, unique=True))
        versions = tuple(
            WantedVersion(name, archive(name, model), DIGESTS[name], workers=draw(st.sampled_from([None, 1, 2, 3])))
            for name in names
        )
        found.append(WantedModel(model, draw(st.sampled_from(names)), versions, draw(st.none() | shares(names))))
    return Desired(tuple(found))


@st.composite
def served_models(draw: st.DrawFn, has_other_bytes: bool = False) -> dict[str, ObservedModel]:
    models = {}
    for model in draw(st.lists(st.sampled_from(MODELS), unique=True)):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
        versions = {}
        for name in names:
            workers = draw(st.integers(0, 3))
            is_other = has_other_bytes and draw(st.booleans())
            file = store_name(model, name, "e" * 12) if is_other else archive(name, model)
            versions[name] = ObservedVersion(file, workers, draw(st.integers(0, workers)))
        models[model] = ObservedModel(draw(st.sampled_from(names)), versions)
    return models


@st.composite
def deployments(draw: st.DrawFn) -> FakeDeployment:
    nodes = {name: ObservedNode(name, draw(served_models())) for name in ("a", "b")}
    if draw(st.booleans()):
        nodes["c"] = unavailable("c")
    routes = {}
    for model in draw(st.lists(st.sampled_from(MODELS), unique=True)):
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
        shadow = draw(st.none() | st.sampled_from(NAMES).map(lambda name: Shadow(name, 100)))
        routes[model] = Traffic(model, draw(shares(names)), shadow=shadow)
    gateway = draw(st.sampled_from([None, GatewayState(True, routes), GatewayState(False, routes)]))
    return FakeDeployment(nodes, gateway)


@given(wanted_models(), deployments(), st.booleans(), st.booleans())
def test_a_plan_that_was_made_leaves_nothing_to_change_and_every_route_answers(
    desired: Desired, fake: FakeDeployment, prune: bool, prune_models: bool
) -> None:
    before = {node: dict(state.models) for node, state in fake.nodes.items()}
    plan = make_plan(desired, fake.actual, PlanOptions(prune, prune_models))
    assert list(map(phase, plan.changes)) == sorted(map(phase, plan.changes))
    if plan.refusals:  # the only ones that are possible here
        assert all("without a READY one" in one.reason for one in plan.refusals)
        return
    fake.watch()
    for change in plan.changes:
        fake.make(change)
    left = make_plan(desired, fake.actual, PlanOptions(prune, prune_models))
    assert (left.changes, left.refusals) == ((), ())
    assert left.unavailable == plan.unavailable
    for model in desired.models:
        for node_state in fake.nodes.values():
            if node_state.error is None:
                assert {one.version for one in model.versions} <= node_state.models[model.model].versions.keys()
                assert node_state.models[model.model].default == model.default
    if not (prune or prune_models):
        for name, models in before.items():
            for model_name, served in models.items():
                assert served.versions.keys() <= fake.nodes[name].models[model_name].versions.keys()


@given(wanted_models(), served_models(has_other_bytes=True), served_models(has_other_bytes=True))
def test_up_leaves_the_bytes_of_the_store_on_every_node(
    desired: Desired, first: dict[str, ObservedModel], second: dict[str, ObservedModel]
) -> None:
    fake = FakeDeployment({"a": ObservedNode("a", first), "b": ObservedNode("b", second)}, None)
    options = PlanOptions(replace=True)
    plan = make_plan(desired, fake.actual, options)
    assert not plan.refusals
    fake.watch()
    for change in plan.changes:
        fake.make(change)
    assert make_plan(desired, fake.actual, options).is_empty
    assert make_plan(desired, fake.actual).is_empty, "apply has nothing to refuse afterwards"
    for model in desired.models:
        for version in model.versions:
            on = fake.actual.on(model.model, version.version)
            assert {state.archive for state in on.values()} == {version.archive}


@given(wanted_models(), deployments(), st.integers(0, 20))
def test_an_interrupted_plan_is_finished_by_the_next_one(desired: Desired, fake: FakeDeployment, done: int) -> None:
    plan = make_plan(desired, fake.actual, PlanOptions(prune=True))
    if plan.refusals:
        return
    fake.watch()
    for change in plan.changes[:done]:
        fake.make(change)
    rest = make_plan(desired, fake.actual, PlanOptions(prune=True))
    assert not rest.refusals
    for change in rest.changes:
        fake.make(change)
    assert make_plan(desired, fake.actual, PlanOptions(prune=True)).changes == ()


@given(wanted_models(), deployments(), st.booleans())
def test_every_plan_can_be_shown(desired: Desired, fake: FakeDeployment, prune: bool) -> None:
    plan = make_plan(desired, fake.actual, PlanOptions(prune))
    assert json.loads(json.dumps(plan_json(plan)))["is_empty"] == plan.is_empty
    text = render_plan(plan).plain
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == sum(len(effects(one)) for one in plan.changes) + len(plan.refusals) + len(plan.unmanaged)
    assert text.endswith(summary(plan))
    assert summary(plan)


# ---- the store and the record ----------------------------------------------------------------------------------------


def stored(project: Project, version: str, config: str = "minWorkers: 2\n") -> Path:
    """An archive of `tiny` under the store's naming."""
    project.store.mkdir(parents=True, exist_ok=True)
    path = project.store / "new"
    with zipfile.ZipFile(path, "w") as content:
        model = {"modelName": "tiny", "modelVersion": version, "handler": "h.py", "configFile": "model-config.yaml"}
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        content.writestr("model-config.yaml", config)
    return path.rename(project.store / store_name("tiny", version, digest_of(path)))


def deployed(**version: Any) -> DeploymentSpec:
    return DeploymentSpec.model_validate(
        {"nodes": {"a": {}}, "models": {"tiny": {"default": "1.0", "versions": {"1.0": version}}}}
    )


def test_the_store_says_what_deployment_leaves_open(tmp_path: Path) -> None:
    project = Project(tmp_path)
    [nothing] = desired_state(project, deployed()).models[0].versions
    assert (nothing.archive, nothing.workers) == (None, None)
    old, new = stored(project, "1.0"), stored(project, "1.0", "minWorkers: many\n")
    [current] = desired_state(project, deployed(workers=3)).models[0].versions
    assert (current.archive, current.workers, current.others) == (new.name, 3, (old.name,))
    [odd] = desired_state(project, deployed()).models[0].versions
    assert odd.workers == 1
    [pinned] = desired_state(project, deployed(digest=digest_of(old)[:20])).models[0].versions
    assert (pinned.archive, pinned.workers, pinned.digest) == (old.name, 2, digest_of(old))
    [absent] = desired_state(project, deployed(digest="0" * 12)).models[0].versions
    assert (absent.archive, len(absent.others)) == (None, 2)


def test_each_archive_is_read_once_until_its_file_changes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    versions = [f"{number}.0" for number in range(1, 4)]
    paths = [stored(project, version) for version in versions]
    names = dict.fromkeys(versions)
    models = {"tiny": {"default": "1.0", "versions": names}}
    deployment = DeploymentSpec.model_validate({"nodes": {"a": {}}, "models": models})
    before = inspect._facts.cache_info().misses
    for _ in range(2):
        assert [version.workers for version in desired_state(project, deployment).models[0].versions] == [2, 2, 2]
    assert inspect._facts.cache_info().misses - before == len(versions)
    changed = stored(project, "1.0", "minWorkers: 4\n")
    changed.replace(paths[0])
    assert facts_of(paths[0]).integer("minWorkers") == 4


def test_an_archive_that_cannot_be_read_keeps_no_other_model_from_being_planned(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.store.mkdir(parents=True)
    (project.store / archive("1.0")).write_bytes(b"no archive")
    models = {name: {"default": "1.0", "versions": {"1.0": None}} for name in ("tiny", "other")}
    desired = desired_state(project, DeploymentSpec.model_validate({"nodes": {"a": {}}, "models": models}))
    assert [bool(model.versions[0].problem) for model in desired.models] == [True, False]
    refused = [one for one in make_plan(desired, actual(node("a"))).refusals if one.error is ArchiveError]
    assert [one.model for one in refused] == ["tiny", "other"]
    assert archive("1.0") in refused[0].reason
    assert "tsctl archive build tiny:1.0" in refused[0].hint
    assert "tsctl archive add FILE.mar" in refused[1].hint


def test_the_bytes_of_a_pinned_archive_count_and_not_its_name(tmp_path: Path) -> None:
    path = stored(Project(tmp_path), "1.0")
    pin = digest_of(path)[:12]
    with zipfile.ZipFile(path, "a") as content:
        content.writestr("more.py", "")
    plan = make_plan(desired_state(Project(tmp_path), deployed(digest=pin)), actual(node("a")))
    [refused] = plan.refusals
    assert refused.error is ArchiveError
    assert f"is {digest_of(path)}" in refused.reason


def test_a_version_is_remembered_with_its_first_bytes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert recorded(project) == {}
    remember(project, {"tiny:1.0": archive("1.0"), "odd:1.0": "odd.mar"})
    remember(project, {"tiny:1.0": store_name("tiny", "1.0", "e" * 12), "tiny:2.0": archive("2.0")})
    assert recorded(project) == {"tiny:1.0": DIGESTS["1.0"], "tiny:2.0": DIGESTS["2.0"]}
    stored(project, "1.0")
    [wanted_one] = desired_state(project, deployed()).models[0].versions
    assert wanted_one.recorded == DIGESTS["1.0"]


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    remember(Project(tmp_path), {"tiny:1.0": archive("1.0")})
    (tmp_path / ".tsctl" / "releases" / "served.json").write_text("[")
    with pytest.raises(SpecError, match="damaged") as caught:
        recorded(Project(tmp_path))
    assert "Remove it" in caught.value.hint


def test_a_model_that_changed_since_the_last_apply_has_drifted(tmp_path: Path) -> None:
    project = Project(tmp_path)
    desired = wanted(ONE, TWO, shares={"1.0": 9500, "2.0": 500})
    assert as_applied(project, desired) == frozenset()
    remember_applied(project, desired)
    same = wanted(TWO, version("1.0", others=("older.mar",), recorded=PIN), shares={"2.0": 500, "1.0": 9500})
    assert as_applied(project, same) == {"tiny"}
    assert as_applied(project, wanted(ONE, TWO, shares={"1.0": 9000, "2.0": 1000})) == frozenset()
    assert as_applied(project, wanted(ONE, version("2.0", 2), shares=desired.models[0].shares)) == frozenset()
    by_hand = actual(node("a", v1=(1, 1), v2=(1, 1), v9=(1, 1)), weights=ALL)
    plan = make_plan(replace(desired, as_applied=frozenset({"tiny"})), by_hand, PlanOptions(prune=True))
    assert plan_json(plan)["drifted"] == ["tiny"]
    assert render_plan(plan).plain.startswith("tiny (changed since the last apply)\n")
    assert render_plan(make_plan(desired, by_hand)).plain.startswith("tiny\n")
    pruned = make_plan(replace(wanted(ONE, TWO), as_applied=frozenset({"tiny"})), by_hand, PlanOptions(prune=True))
    assert [change.kind for change in pruned.changes] == ["retire"]  # left over, and nobody's change
    assert pruned.drifted == ()


def test_an_error_names_every_failure_and_what_was_left_out() -> None:
    plan = make_plan(wanted(ONE, TWO), actual(node("a"), node("b")))
    first, second, _ = plan.changes
    assert failure_error(Applied(done=[first, second])) is None
    failures = [
        Failure(first, "a", Unreachable("GET: no connection")),
        Failure(first, "b", ArchiveError("it is damaged", "Build it.")),
    ]
    error = failure_error(Applied(failures=failures, left_out=[second]))
    assert type(error) is NodeError
    assert error.message.splitlines() == [
        "not all changes were made:",
        "  a: registering tiny 1.0: GET: no connection",
        "  b: registering tiny 1.0: it is damaged",
        "  left out: registering tiny 2.0",
    ]
    assert "Build it." in error.hint
    document = applied_json(plan, Applied(failures=failures, left_out=[second]), plan)
    assert json.loads(json.dumps(document))["failures"][1] == {
        "kind": "register",
        "model": "tiny",
        "version": "1.0",
        "place": "b",
        "reason": "it is damaged",
    }
