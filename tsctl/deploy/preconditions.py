"""Refuses plans that would change the meaning of a version or leave a route without a ready worker. Pure.

Each rule looks at the whole plan and yields its refusals, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsctl.archive.store import DIGEST_DIGITS, parse_name
from tsctl.deploy.changes import (
    GATEWAY,
    Change,
    PlanOptions,
    Refusal,
    Register,
    Scale,
    SetWeights,
    is_barred_by_rollout,
    places,
)
from tsctl.deploy.state import Actual, Desired, WantedModel, WantedVersion
from tsctl.errors import AnalysisError, ArchiveError, ConflictError, GatewayError, SpecError, TsctlError
from tsctl.gateway.envoy.render.clusters import MOST_VERSIONS
from tsctl.nodes.observed import ObservedVersion


def refusals(desired: Desired, actual: Actual, changes: Sequence[Change], options: PlanOptions) -> Iterator[Refusal]:
    """Every reason why the changes must not be made."""
    for model in desired.models:
        for version in model.versions:
            yield from _archive(model, version, actual)
            yield from _impossible(model, version, actual)
            yield from _barred(model, version, actual)
            if not options.replace:
                yield from _recorded_bytes(model, version, actual)
            if not options.replace or version.archive is None:
                yield from _other_bytes(model, version, actual)
        yield from _cold(model, actual, changes)
        yield from _left_without(model, actual, changes)
    yield from _too_many(actual, changes)
    yield from rollouts(actual, changes, options)


def error_of(refused: Sequence[Refusal]) -> TsctlError:
    """The error of refused models: the first refusal's kind, and the reasons of all."""
    hints = dict.fromkeys(refusal.hint for refusal in refused)
    models = ", ".join(dict.fromkeys(refusal.model for refusal in refused))
    reasons = dict.fromkeys(f"  {refusal.reason}" for refusal in refused)
    return refused[0].error(
        f"nothing of {models} is changed, because that is refused:\n" + "\n".join(reasons),
        "\n       ".join(filter(None, hints)),
    )


def fits(version: WantedVersion, observed: ObservedVersion) -> bool:
    """Whether the node has the version from the bytes that are wanted."""
    if version.archive is not None:
        return observed.archive == version.archive
    named = parse_name(observed.archive)
    return version.pin is None or (named is not None and named[2] == version.pin[:DIGEST_DIGITS])


def _archive(model: WantedModel, version: WantedVersion, actual: Actual) -> Iterator[Refusal]:
    """The archive is in the store where a node needs it, and has the pinned bytes."""
    name = f"{model.model} {version.version}"
    lacking = _lacking(model, version, actual)
    if version.problem and lacking:
        reason = version.problem
        hint = version.remedy or f"Build it again: tsctl archive build {model.model}:{version.archive_version}"
    elif version.archive is None and lacking and version.pin is None:
        reason = f"no archive of {name} is in the store"
        hint = (
            f"Build it: tsctl archive build {model.model}:{version.archive_version}"
            "\n       An archive that was made elsewhere: tsctl archive add FILE.mar"
        )
    elif version.archive is None and lacking:
        stored = f"the store has {', '.join(version.others)}" if version.others else "the store has none of it"
        reason = f"deployment.yaml pins {name} to {version.pin}, and {stored}"
        hint = "Copy the pinned archive into archives/store, or pin another one."
    elif version.archive is not None and version.pin is not None and not version.digest.startswith(version.pin):
        reason = (
            f"deployment.yaml pins {name} to {version.pin}, and the SHA-256 of {version.archive} is {version.digest}"
        )
        hint = "Copy the pinned archive into archives/store again: its digest is not the one in its name."
    else:
        return
    yield Refusal(model.model, version.version, lacking, reason, hint, ArchiveError)


def _impossible(model: WantedModel, version: WantedVersion, actual: Actual) -> Iterator[Refusal]:
    """No node is to serve what its engine cannot."""
    for node in set(_lacking(model, version, actual)) & version.impossible.keys():
        reason = f"{model.model} {version.version} cannot be on node {node}: {version.impossible[node]}"
        hint = (
            f"Name the nodes of {model.model} {version.version} in deployment.yaml, as nodes: [...]. The same bytes on"
            f' another engine are a version of their own: archive: "{version.archive_version}".'
        )
        yield Refusal(model.model, version.version, (node,), reason, hint, SpecError)


def _barred(model: WantedModel, version: WantedVersion, actual: Actual) -> Iterator[Refusal]:
    """No node reads a pickle that runs code and that nobody trusts, or loads a model without its secrets."""
    lacking = _lacking(model, version, actual)
    if version.barred is not None and lacking:
        reason, hint = version.barred
        reason = f"{model.model} {version.version} is not registered: {reason}"
        yield Refusal(model.model, version.version, lacking, reason, hint, ArchiveError)


def _recorded_bytes(model: WantedModel, version: WantedVersion, actual: Actual) -> Iterator[Refusal]:
    """A version is registered from the bytes that it was served from before."""
    lacking = _lacking(model, version, actual)
    if version.archive is not None and lacking and version.recorded not in (None, _digits(version.archive)):
        reason = (
            f"{model.model} {version.version} was served from other bytes before, {version.recorded}, and the store has"
            f" {version.archive}"
        )
        yield Refusal(model.model, version.version, lacking, reason, "Give the new bytes a new version.", ConflictError)


def _other_bytes(model: WantedModel, version: WantedVersion, actual: Actual) -> Iterator[Refusal]:
    """No node has the version from bytes other than those that are wanted."""
    name = f"{model.model} {version.version}"
    on = {node: state for node, state in actual.on(model.model, version.version).items() if version.is_on(node)}
    wanted = version.archive or version.pin
    for node, observed in on.items():
        if not fits(version, observed):
            reason = f"node {node} has {name} from other bytes than {wanted}: {observed.archive}"
            hint = "Give the new bytes a new version. Only 'tsctl up', on a developer's machine, replaces bytes."
            yield Refusal(model.model, version.version, (node,), reason, hint, ConflictError)
    archives = sorted({observed.archive for observed in on.values()})
    if wanted is None and len(archives) > 1:
        reason = f"nodes have {name} from different bytes: {', '.join(archives)}"
        hint = "Pin the right archive in deployment.yaml (digest), have it in the store, and retire the other by hand."
        yield Refusal(model.model, version.version, tuple(on), reason, hint, ConflictError)


def _cold(model: WantedModel, actual: Actual, changes: Sequence[Change]) -> Iterator[Refusal]:
    """A version that gets weight is READY on some node, or an earlier change makes it so."""
    route = next((one for one in changes if isinstance(one, SetWeights) and one.model == model.model), None)
    for name in route.weights if route else ():
        is_ready = any(observed.is_ready for observed in actual.on(model.model, name).values())
        becomes_ready = any(
            isinstance(one, Register | Scale) and (one.model, one.version) == (model.model, name) for one in changes
        )
        if not is_ready and not becomes_ready:
            reason = f"{model.model} {name} is ready on no node, so it cannot get weight"
            yield Refusal(model.model, name, (GATEWAY,), reason, "See 'tsctl status'.", GatewayError)


def _left_without(model: WantedModel, actual: Actual, changes: Sequence[Change]) -> Iterator[Refusal]:
    """Every version with weight keeps a READY worker, even if the workers that end are the READY ones."""
    route = actual.route(model.model)
    for version in route.shares if route else ():
        on = actual.on(model.model, version)
        left = {node: state.ready for node, state in on.items() if state.ready}
        nodes = tuple(left)
        for change in changes:
            if isinstance(change, Scale) and (change.model, change.version) == (model.model, version):
                for node in change.before.keys() & left.keys():
                    left[node] -= max(0, on[node].workers - change.workers)
        if left and not any(count > 0 for count in left.values()):
            reason = f"fewer workers of {model.model} {version} may leave its route without a READY one"
            hint = f"Have all of its workers READY first: tsctl models scale {model.model} {version} WORKERS"
            yield Refusal(model.model, version, nodes, reason, hint, GatewayError)


def _too_many(actual: Actual, changes: Sequence[Change]) -> Iterator[Refusal]:
    """One gateway has room for the clusters of all versions."""
    served = {
        (name, version) for node in actual.answering for name in node.models for version in node.models[name].versions
    }
    new = list(dict.fromkeys((one.model, one.version) for one in changes if isinstance(one, Register)))
    surplus = [key for key in new if key not in served][max(0, MOST_VERSIONS - len(served)) :]
    if actual.gateway is not None and surplus:
        reason = (
            f"one gateway takes {MOST_VERSIONS:,} versions, and with this plan there are {len(served | set(new)):,}"
        )
        hint = "Retire versions that nobody needs, or divide the models among several projects, each with a gateway."
        yield from (Refusal(*key, (GATEWAY,), reason, hint, GatewayError) for key in surplus)


def rollouts(actual: Actual, changes: Sequence[Change], options: PlanOptions) -> Iterator[Refusal]:
    """Nothing of a model changes until its rollout has ended; `up` leaves the bytes alone that it compares."""
    barred: dict[tuple[str, str | None], list[Change]] = {}
    for change in changes:
        is_known = change.model in actual.rollouts or change.model in actual.unknown_rollouts
        if is_known and is_barred_by_rollout(change, options):
            barred.setdefault((change.model, change.version if options.replace else None), []).append(change)
    for (model, version), refused in barred.items():
        then = f"{model} {version} is not replaced" if version else f"nothing of {model} is changed"
        on = tuple(dict.fromkeys(place for change in refused for place in places(change)))
        if unknown := actual.unknown_rollouts.get(model):
            reason = f"it is not known whether a rollout of {model} has ended, so {then}: {unknown.message}"
            yield Refusal(model, version, on, reason, unknown.hint, AnalysisError)
            continue
        reason = f"rollout {actual.rollouts[model]} of {model} has not ended, so {then}"
        hint = f"See 'tsctl rollout status {model}'; wait for its end, or end it with 'tsctl rollout abort {model}'."
        yield Refusal(model, version, on, reason, hint, ConflictError)


def _lacking(model: WantedModel, version: WantedVersion, actual: Actual) -> tuple[str, ...]:
    """The nodes that answer, are to serve the version, and do not have it."""
    return tuple(
        node.name
        for node in actual.answering
        if version.is_on(node.name) and not node.version(model.model, version.version)
    )


def _digits(archive: str) -> str | None:
    named = parse_name(archive)
    return named[2] if named else None
