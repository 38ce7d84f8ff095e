"""From the desired and the actual state to the changes between them, in a safe order. Pure.

Invariant: a version gets weight only after a change that makes it warm, unless it is; nothing that has weight, or gets
copies of requests, is retired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tsctl.config.weights import TOTAL, percent
from tsctl.deploy.changes import (
    GATEWAY,
    Away,
    Change,
    EndRoute,
    Plan,
    Register,
    Retire,
    Scale,
    SetDefault,
    Unmanaged,
    Weigh,
    phase,
    state_text,
    weights_text,
)
from tsctl.deploy.preconditions import fits, refusals
from tsctl.deploy.state import Actual, Desired, WantedModel, WantedVersion
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.observe import ObservedVersion


def make_plan(desired: Desired, actual: Actual, prune: bool = False, prune_models: bool = False) -> Plan:
    """What makes the actual state the desired one.

    Args:
        prune: versions that deployment.yaml does not name are retired, except those with weight.
        prune_models: as `prune`, and models that it does not name lose their routes first.

    Nodes that do not answer are left out. Where none answers, and for weights while Envoy does not run, there are no
    changes.
    """
    away = [Away(node.name, node.reason) for node in actual.nodes if node.reason]
    if not actual.answering:
        return Plan(away=tuple(away))
    changes: list[Change] = []
    unmanaged: list[Unmanaged] = []
    for model in desired.models:
        changes += [*_registered(model, actual), *_scaled(model, actual), *_defaulted(model, actual)]
        weigh = _weighed(model, actual)
        if weigh is not None and actual.gateway is None:
            unmanaged.append(Unmanaged(model.model, None, GATEWAY, "weights", "deployment.yaml has no gateway"))
        elif weigh is not None and not _is_live(actual):
            away.append(Away(GATEWAY, f"the gateway does not run, so the weights of {model.model} stay as they are"))
        elif weigh is not None:
            changes.append(weigh)
    for name in dict.fromkeys([*(one.model for one in desired.models), *actual.models]):
        gone, kept = _unnamed(name, desired.model(name), actual, changes, prune or prune_models, prune_models)
        changes += gone
        unmanaged += kept
    ordered = sorted(changes, key=phase)
    drifted = desired.as_applied & {one.model for one in ordered if not isinstance(one, EndRoute | Retire)}
    return Plan(
        tuple(ordered),
        tuple(refusals(desired, actual, ordered)),
        tuple(unmanaged),
        tuple(away),
        tuple(sorted(drifted)),
    )


def _registered(model: WantedModel, actual: Actual) -> Iterator[Register]:
    for version in _default_first(model):
        nodes = tuple(node.name for node in actual.answering if not node.version(model.model, version.version))
        if nodes and version.archive is not None:
            yield Register(model.model, version.version, version.archive, version.workers or 1, nodes)


def _default_first(model: WantedModel) -> list[WantedVersion]:
    """The versions in the order of their registering: a node makes the first one its default."""
    return sorted(model.versions, key=lambda version: version.version != model.default)


def _scaled(model: WantedModel, actual: Actual) -> Iterator[Scale]:
    for version in model.versions:
        off: dict[tuple[int, bool], dict[str, ObservedVersion]] = {}
        for node, was in actual.on(model.model, version.version).items():
            workers = version.workers if version.workers is not None else max(1, was.workers)
            if fits(version, was) and (workers != was.workers or not was.is_ready):
                off.setdefault((workers, was.is_ready and workers < was.workers), {})[node] = was
        for (workers, is_down), before in sorted(off.items(), key=lambda one: one[0]):
            yield Scale(model.model, version.version, workers, before, is_down)


def _defaulted(model: WantedModel, actual: Actual) -> Iterator[SetDefault]:
    before: dict[str, str | None] = {}
    for node in actual.answering:
        served = node.models.get(model.model)
        if served is not None and served.versions and served.default != model.default:
            before[node.name] = served.default
    wanted = model.version(model.default)
    if before and wanted is not None:
        yield SetDefault(model.model, model.default, before)


def _weighed(model: WantedModel, actual: Actual) -> Weigh | None:
    """The change of the route; None where it is as it should be, or is not deployment.yaml's to say."""
    route = actual.route(model.model)
    if model.shares is None and (route is not None or not _is_live(actual)):
        return None
    weights = {version: share for version, share in (model.shares or {model.default: TOTAL}).items() if share}
    if route is not None and weights == _above_zero(route.weights):
        return None
    return Weigh(model.model, weights, route)


def _unnamed(
    name: str,
    model: WantedModel | None,
    actual: Actual,
    changes: Sequence[Change],
    prune: bool,
    prune_models: bool,
) -> tuple[list[Change], list[Unmanaged]]:
    """What leaves of a model, and what stays though nobody named it."""
    gone: list[Change] = []
    kept: list[Unmanaged] = []
    route = _route_after(actual.route(name), name, changes)
    if model is None and route is not None:
        if prune_models and _is_live(actual):
            gone.append(EndRoute(name, route))
            route = None
        else:
            why = "the gateway does not run" if prune_models else "--prune-models takes it away"
            kept.append(Unmanaged(name, None, GATEWAY, f"a route, {weights_text(route.weights)}", why))
    named = {version.version for version in model.versions} if model else set()
    for version in _default_last(name, actual):
        if version in named:
            continue
        on = actual.on(name, version)
        why = _why_kept(route, name, version, actual) if prune else "--prune retires it"
        if why:
            kept += [Unmanaged(name, version, node, state_text(state), why) for node, state in on.items()]
        else:
            gone.append(Retire(name, version, on))
    return gone, kept


def _default_last(name: str, actual: Actual) -> list[str]:
    """Every registered version of the model; TorchServe lets a default go only after all others."""
    served = [node.models[name] for node in actual.answering if name in node.models]
    defaults = {one.default for one in served}
    return sorted({version for one in served for version in one.versions}, key=lambda v: (v in defaults, v))


def _why_kept(route: Traffic | None, name: str, version: str, actual: Actual) -> str:
    """Why a version that nobody named must stay; empty where it may go."""
    if actual.gateway is None:
        return f"without a gateway it cannot be drained: tsctl models unregister {name} {version} --all-nodes"
    if route is None:
        return ""
    if route.weights.get(version):
        return f"it has {percent(route.weights[version])} of the requests"
    if version == route.stable:
        return f"it is stable until another version has 100%: tsctl weights set {name} VERSION=100%"
    if route.shadow is not None and version == route.shadow.version:
        return f"it gets copies of requests: tsctl shadow clear {name}"
    return ""


def _route_after(route: Traffic | None, name: str, changes: Sequence[Change]) -> Traffic | None:
    """The model's route as the changes leave it."""
    weigh = next((one for one in changes if isinstance(one, Weigh) and one.model == name), None)
    return route.weighted(weigh.weights) if route is not None and weigh is not None else route


def _above_zero(weights: Mapping[str, int]) -> dict[str, int]:
    return {version: share for version, share in weights.items() if share}


def _is_live(actual: Actual) -> bool:
    return actual.gateway is not None and actual.gateway.is_live
