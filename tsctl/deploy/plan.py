"""Plans the changes from the actual to the desired state, in a safe order. Pure.

Invariant: a version gets weight only where it is warm, or after a change that makes it so. A version that has weight,
or gets copies of requests, is never retired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsctl.config.weights import TOTAL, percent
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
    Unavailable,
    Unmanaged,
    Withdraw,
    gateway_place,
    phase,
    state_text,
)
from tsctl.deploy.preconditions import fits, refusals
from tsctl.deploy.state import Actual, Desired, WantedModel
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.nodes.observed import ObservedVersion

NO_OPTIONS = PlanOptions()
#: What to do about one of several gateways that does not take changes.
FOLLOW = "Start it on its machine (tsctl gateway follow NAME), or remove it from deployment.yaml and apply that."


def make_plan(desired: Desired, actual: Actual, options: PlanOptions = NO_OPTIONS) -> Plan:
    """The changes that make the actual state the desired one.

    Nodes that do not answer are left out. Where none answers, and for weights while Envoy does not run, there are no
    changes.
    """
    unavailable = [
        Unavailable(node.name, node.reason, node.error.hint) for node in actual.nodes if node.error is not None
    ]
    gateway = actual.gateway
    if gateway is not None:
        unavailable += [Unavailable(gateway_place(name), why, FOLLOW) for name, why in gateway.absent.items()]
    if not actual.answering:
        return Plan(unavailable=tuple(unavailable), is_unknown=bool(unavailable))
    changes: list[Change] = []
    unmanaged: list[Unmanaged] = []
    for model in desired.models:
        changes += [*_register(model, actual), *_scale(model, actual), *_configure(model, actual)]
        changes += _set_default(model, actual)
        if options.replace:
            changes += _replace(model, actual)
        weights = _set_weights(model, actual)
        if weights is not None and actual.gateway is None:
            unmanaged.append(Unmanaged(model.model, None, GATEWAY, "weights", "deployment.yaml has no gateway"))
        elif weights is not None and not _is_live(actual):
            reason = f"the gateway does not run, so the weights of {model.model} stay as they are"
            unavailable.append(Unavailable(GATEWAY, reason))
        elif weights is not None:
            changes.append(weights)
    named = {model.model: {version.version for version in model.versions} for model in desired.models}
    for name in dict.fromkeys([*named, *actual.models]):
        removed, kept = _unnamed(name, named.get(name), actual, changes, options)
        changes += removed
        unmanaged += kept
    for model in desired.models:
        withdrawn, kept = _misplaced(model, actual, changes, options)
        changes += withdrawn
        unmanaged += kept
    ordered = sorted(changes, key=phase)
    drifted = desired.as_applied & {
        change.model for change in ordered if not isinstance(change, RemoveRoute | Retire | Withdraw)
    }
    return Plan(
        tuple(ordered),
        tuple(refusals(desired, actual, ordered, options)),
        tuple(unmanaged),
        tuple(unavailable),
        tuple(sorted(drifted)),
        is_unpublished=gateway is not None and gateway.is_behind,
    )


def _register(model: WantedModel, actual: Actual) -> Iterator[Register]:
    for version in sorted(model.versions, key=lambda v: v.version != model.default):  # a node's first is its default
        nodes = tuple(
            node.name
            for node in actual.answering
            if version.is_on(node.name)
            and node.name not in version.impossible
            and not node.version(model.model, version.version)
        )
        if nodes and version.archive is not None:
            workers = version.workers or 1
            yield Register(
                model.model, version.version, version.archive, workers, nodes, version.lacks_golden,
                version.lacks_packages, version.is_pulled,
            )  # fmt: skip


def _replace(model: WantedModel, actual: Actual) -> Iterator[Replace]:
    for version in model.versions:
        on = actual.on(model.model, version.version)
        before = {node: was for node, was in on.items() if version.is_on(node) and not fits(version, was)}
        if before and version.archive is not None:
            workers = version.workers or 1
            yield Replace(
                model.model, version.version, before, version.archive, workers, version.lacks_golden,
                version.lacks_packages, version.is_pulled,
            )  # fmt: skip


def _scale(model: WantedModel, actual: Actual) -> Iterator[Scale]:
    for version in model.versions:
        off: dict[tuple[int, bool], dict[str, ObservedVersion]] = {}
        for node, was in actual.on(model.model, version.version).items():
            workers = version.workers if version.workers is not None else max(1, was.workers)
            if version.is_on(node) and fits(version, was) and (workers != was.workers or not was.is_ready):
                off.setdefault((workers, was.is_ready and workers < was.workers), {})[node] = was
        for (workers, is_down), before in sorted(off.items(), key=lambda group: group[0]):
            yield Scale(model.model, version.version, before, workers, is_down)


def _configure(model: WantedModel, actual: Actual) -> Iterator[Configure]:
    for version in model.versions:
        on = actual.on(model.model, version.version)
        before = {
            node: was
            for node, was in on.items()
            if version.is_on(node) and fits(version, was) and was.settings != version.settings.get(node, was.settings)
        }
        if before:
            yield Configure(model.model, version.version, before, {node: version.settings[node] for node in before})


def _set_default(model: WantedModel, actual: Actual) -> Iterator[SetDefault]:
    before: dict[str, str | None] = {}
    default = next(version for version in model.versions if version.version == model.default)
    for node in filter(lambda node: default.is_on(node.name), actual.answering):
        served = node.models.get(model.model)
        if served is not None and served.versions and served.default != model.default:
            before[node.name] = served.default
    if before:
        yield SetDefault(model.model, model.default, before)


def _set_weights(model: WantedModel, actual: Actual) -> SetWeights | None:
    """The change of the route; None where it has its weights, or deployment.yaml does not give any."""
    route = actual.route(model.model)
    if model.shares is None and (route is not None or not _is_live(actual)):
        return None
    weights = {version: share for version, share in (model.shares or {model.default: TOTAL}).items() if share}
    if route is not None and weights == route.shares:
        return None
    return SetWeights(model.model, weights, route)


def _unnamed(
    name: str, named: set[str] | None, actual: Actual, changes: Sequence[Change], options: PlanOptions
) -> tuple[list[Change], list[Unmanaged]]:
    """The removals of what deployment.yaml does not name of a model, and what of it stays.

    Args:
        named: versions that deployment.yaml names; None: it does not name the model.
    """
    removed: list[Change] = []
    kept: list[Unmanaged] = []
    route = _route_after(actual.route(name), name, changes)
    if named is None and route is not None:
        if options.prune_models and _is_live(actual):
            removed.append(RemoveRoute(name, route))
            route = None
        else:
            reason = "the gateway does not run" if options.prune_models else "--prune-models removes it"
            kept.append(Unmanaged(name, None, GATEWAY, f"a route, {weights_text(route.shares)}", reason))
    for version in _default_last(name, actual):
        if version in (named or ()):
            continue
        on = actual.on(name, version)
        if reason := _reason_to_keep(route, name, version, actual, options):
            kept += [Unmanaged(name, version, node, state_text(state), reason) for node, state in on.items()]
        else:
            removed.append(Retire(name, version, on))
    return removed, kept


def _misplaced(
    model: WantedModel, actual: Actual, changes: Sequence[Change], options: PlanOptions
) -> tuple[list[Withdraw], list[Unmanaged]]:
    """Versions on nodes that deployment.yaml does not name for them: what leaves, and what stays."""
    made_ready = {
        change.version
        for change in changes
        if isinstance(change, Register | Replace | Scale) and change.model == model.model
    }
    withdrawn: list[Withdraw] = []
    kept: list[Unmanaged] = []
    route = actual.route(model.model)
    for version in model.versions:
        on = actual.on(model.model, version.version)
        off = {node: state for node, state in on.items() if not version.is_on(node)}
        is_elsewhere = version.version in made_ready or any(
            state.is_ready for node, state in on.items() if node not in off
        )
        reason = ""
        if not (options.prune or options.prune_models):
            reason = "--prune takes it off this node"
        elif route is not None and version.version in route.versions and not is_elsewhere:
            reason = "no node that deployment.yaml names for it has it READY, or gets it"
        elif actual.gateway is None:
            unregister = f"tsctl models unregister {model.model} {version.version} --node NODE"
            reason = f"without a gateway it cannot be drained: {unregister}"
        if reason:
            kept += [
                Unmanaged(model.model, version.version, node, state_text(state), reason) for node, state in off.items()
            ]
        elif off:
            withdrawn.append(Withdraw(model.model, version.version, off))
    return withdrawn, kept


def _default_last(name: str, actual: Actual) -> list[str]:
    """Every registered version of the model; TorchServe lets a default go only after all others."""
    served = [node.models[name] for node in actual.answering if name in node.models]
    defaults = {model.default for model in served}
    return sorted({version for model in served for version in model.versions}, key=lambda v: (v in defaults, v))


def _reason_to_keep(route: Traffic | None, name: str, version: str, actual: Actual, options: PlanOptions) -> str:
    """Why a version that deployment.yaml does not name must stay; empty where it may be retired."""
    if not (options.prune or options.prune_models):
        return "--prune retires it"
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
    change = next((one for one in changes if isinstance(one, SetWeights) and one.model == name), None)
    return route.weighted(change.weights) if route is not None and change is not None else route


def _is_live(actual: Actual) -> bool:
    return actual.gateway is not None and actual.gateway.is_live
