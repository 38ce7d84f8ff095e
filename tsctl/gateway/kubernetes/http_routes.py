"""The HTTPRoute of a model: rendered from its traffic, read back, and changed where tsctl owns it. Pure.

Invariant: a change keeps whatever others wrote into a route: its own rules that tsctl does not know, and in the rules
of tsctl everything but versions, weights, mirrors and the annotations of tsctl.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CACHE_HEADER,
    CHECK_HEADER,
    CHOSEN_BY_HEADER,
    CLIENT_HEADER,
    COPIED_HEADER,
    MODEL_VERSION_HEADER,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
    SENT_HEADER,
    SHADOW_HEADER,
    TIMEOUT_HEADER,
    VERSIONS_HEADER,
)
from tsctl.config.deployment import RouteSpec
from tsctl.config.kubernetes import KubernetesSpec
from tsctl.config.weights import TOTAL
from tsctl.errors import GatewayError
from tsctl.gateway.headers import TRACK_HEADER
from tsctl.gateway.kubernetes.names import (
    CANARY_NOTE,
    HTTP_PORT,
    MODEL_NOTE,
    VERSION_NOTE,
    labels,
    model_name,
    version_name,
)
from tsctl.gateway.traffic import BY_HEADER, BY_PATH, BY_WEIGHT, CANARY, PINNED, Shadow, Traffic

Json = dict[str, Any]

API_VERSION, KIND, PLURAL = "gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"
#: The names of tsctl's rules; those of pinned versions begin with the last one.
WEIGHTS_RULE, CANARY_RULE, METADATA_RULE, PIN_RULE = "weights", "canary", "metadata", "pin."
#: Headers that a worker believes, and no client may send. An HTTPRoute removes names, and no beginnings of names.
_NOT_FROM_CLIENTS = (
    CHECK_HEADER, CLIENT_HEADER, COPIED_HEADER, PROTOCOL_HEADER, SENT_HEADER, SHADOW_HEADER, VERSIONS_HEADER,
)  # fmt: skip
#: Of an API: the most rules of a route, the most versions of a rule, and the most matches of a rule.
MOST_RULES, MOST_BACKENDS = 16, 16
_MIRROR, _HEADERS = "RequestMirror", "RequestHeaderModifier"


def http_route(
    kubernetes: KubernetesSpec, traffic: Traffic, spec: RouteSpec, extra_paths: Collection[str] = ()
) -> Json:
    """The model's HTTPRoute with this traffic.

    Args:
        spec: its deadline is that of the whole answer.
        extra_paths: further paths of requests for an answer, such as those of the OpenAI API.

    Raises:
        GatewayError: it has more versions or rules than an HTTPRoute may have.
    """
    rules = _rules(kubernetes, traffic, spec, extra_paths)
    _require_few(traffic, rules)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": model_name(traffic.model),
            "namespace": kubernetes.namespace,
            "labels": labels(traffic.model),
            "annotations": _notes(traffic),
        },
        "spec": {
            "parentRefs": [parent(kubernetes)],
            **({"hostnames": list(kubernetes.hostnames)} if kubernetes.hostnames else {}),
            "rules": rules,
        },
    }


def parent(kubernetes: KubernetesSpec) -> Json:
    """The reference to the Gateway."""
    elsewhere = kubernetes.gateway_namespace
    return {"name": kubernetes.gateway, **({"namespace": elsewhere} if elsewhere else {})}


def traffic_of(route: Mapping[str, Any], known: Iterable[str] = ()) -> Traffic:
    """The traffic of a model's HTTPRoute; of weights that do not sum to 100 %, their shares.

    Args:
        known: versions of the model besides those that the route names itself.

    Raises:
        GatewayError: its rule of weights is gone, names a Service that is no version, or has no weight.
    """
    notes = route["metadata"].get("annotations") or {}
    model, name = notes.get(MODEL_NOTE), route["metadata"]["name"]
    if not model:
        raise GatewayError(f"HTTPRoute {name} has no annotation {MODEL_NOTE}", "Render and apply it again.")
    versions = {version_name(model, version): version for version in (*_listed(notes), *known)}
    rule = _rule_of(route, WEIGHTS_RULE)
    if rule is None or not rule.get("backendRefs"):
        raise GatewayError(
            f"HTTPRoute {name} has no rule named {WEIGHTS_RULE} with versions", "Render and apply it again."
        )
    given = {_version(name, ref, versions): ref.get("weight", 1) for ref in rule["backendRefs"]}
    weights = _shares(name, given)
    canary = notes.get(CANARY_NOTE)
    stable = list(weights)[-1]
    shadows = [
        Shadow(_version(name, mirror["backendRef"], versions), _mirrored(mirror))
        for one in rule.get("filters", ())
        if one["type"] == _MIRROR and (mirror := one["requestMirror"])["backendRef"]["name"] in versions
    ]
    return Traffic(
        model,
        weights,
        canary if canary in weights and canary != stable else None,
        shadows[0] if shadows and shadows[0].share else None,
    )


def with_traffic(route: Mapping[str, Any], kubernetes: KubernetesSpec, traffic: Traffic, spec: RouteSpec) -> Json:
    """The route with this traffic, and with everything that others wrote into it; `route` stays as it is.

    A rule that is new has the paths and the deadline of the rule of weights, which was rendered with all that is known.
    """
    made: Json = copy.deepcopy(dict(route))
    notes = made["metadata"].get("annotations") or {}
    services = {version_name(traffic.model, version) for version in (*traffic.versions, *_listed(notes))}
    before = {rule.get("name", ""): rule for rule in made["spec"].get("rules", ())}
    main = before.get(WEIGHTS_RULE, {})
    paths = [one["path"]["value"] for one in main.get("matches", ()) if one.get("method") == "POST"]
    wanted = _rules(kubernetes, traffic, spec, paths)
    ours = [_merged(before.get(rule["name"]), rule, services, main.get("timeouts")) for rule in wanted]
    others = [rule for name, rule in before.items() if not _is_ours(name)]
    _require_few(traffic, [*ours, *others], len(others))
    kept = {name: value for name, value in notes.items() if name != CANARY_NOTE}
    made["metadata"]["annotations"] = {**kept, **_notes(traffic)}
    made["spec"]["rules"] = [*ours, *others]
    return made


def _require_few(traffic: Traffic, rules: Collection[Json], others: int = 0) -> None:
    if len(traffic.versions) <= MOST_BACKENDS and len(rules) <= MOST_RULES:
        return
    of_others = f", {others} of them not of tsctl" if others else ""
    raise GatewayError(
        f"{traffic.model} has {len(traffic.versions)} versions on its route, which makes {len(rules)} rules{of_others};"
        f" an HTTPRoute has at most {MOST_RULES} rules, and {MOST_BACKENDS} versions in each",
        f"Remove versions, or let no client name them: models.{traffic.model}.route.pinned: false",
    )


def _rules(kubernetes: KubernetesSpec, traffic: Traffic, spec: RouteSpec, extra_paths: Collection[str]) -> list[Json]:
    model = traffic.model
    paths = [f"/predictions/{model}"]
    is_own = kubernetes.engine == "uvicorn"  # TorchServe knows the paths of no other protocol
    if is_own:
        paths += [f"/v2/models/{model}/infer"]
    paths = list(dict.fromkeys([*paths, *extra_paths]))
    rules = []
    if spec.canary_header and traffic.canary is not None:
        tester = [{"type": "Exact", "name": TRACK_HEADER, "value": CANARY}]
        matches = [_match(path, "POST", headers=tester) for path in paths]
        rules.append(_rule(CANARY_RULE, matches, _headers(BY_HEADER, CANARY), [_backend(model, traffic.canary)], spec))
    matches = [_match(path, "POST") for path in paths]
    if spec.cors is not None:
        matches += [_match(path, "OPTIONS") for path in paths]
    backends = [_weighted(kubernetes, traffic, version) for version in traffic.weights]
    rules.append(_rule(WEIGHTS_RULE, matches, [_headers(BY_WEIGHT), *_mirror(traffic)], backends, spec))
    for version in traffic.versions if spec.pinned else ():
        pinned = [f"/predictions/{model}/{version}"]
        pinned += [f"/v2/models/{model}/versions/{version}/infer"] if is_own else []
        name = f"{PIN_RULE}{version_name(model, version)}"
        matches = [_match(path, "POST") for path in pinned]
        rules.append(_rule(name, matches, _headers(BY_PATH, PINNED), [_backend(model, version)], spec))
    if is_own:
        described = [f"/v2/models/{model}", f"/v2/models/{model}/ready"]
        matches = [_match(path, "GET") for path in described]
        rules.append(_rule(METADATA_RULE, matches, None, [_backend(model, traffic.stable)], spec))
    return rules


def _rule(
    name: str, matches: list[Json], filters: Json | list[Json] | None, backends: list[Json], spec: RouteSpec
) -> Json:
    made = [] if filters is None else filters if isinstance(filters, list) else [filters]
    if spec.cors is not None and name != METADATA_RULE:
        made = [*made, _cors(spec)]
    return {
        "name": name,
        "matches": matches,
        **({"filters": made} if made else {}),
        "backendRefs": backends,
        "timeouts": {"request": duration(spec.deadline_s)},
    }


def _match(path: str, method: str, **more: Any) -> Json:
    return {"path": {"type": "Exact", "value": path}, "method": method, **more}


def _headers(by: str, track: str = "") -> Json:
    """Says how the version was chosen, and removes what only a gateway may say."""
    said = {CHOSEN_BY_HEADER: by, **({ASSIGNED_TRACK_HEADER: track} if track else {})}
    removed = _NOT_FROM_CLIENTS if track else (*_NOT_FROM_CLIENTS, ASSIGNED_TRACK_HEADER)
    return {
        "type": _HEADERS,
        "requestHeaderModifier": {
            "set": [{"name": name, "value": value} for name, value in said.items()],
            "remove": sorted(removed),
        },
    }


def _mirror(traffic: Traffic) -> list[Json]:
    if traffic.shadow is None:
        return []
    share = traffic.shadow.share
    part: Json = {"percent": share // 100} if share % 100 == 0 else {}
    part = part or {"fraction": {"numerator": share, "denominator": TOTAL}}
    return [{"type": _MIRROR, "requestMirror": {"backendRef": _target(traffic.model, traffic.shadow.version), **part}}]


def _mirrored(mirror: Mapping[str, Any]) -> int:
    """The share of a mirror, in hundredths of a percent."""
    if "fraction" in mirror:
        fraction = mirror["fraction"]
        return round(int(fraction["numerator"]) * TOTAL / int(fraction.get("denominator", 100)))
    return int(mirror.get("percent", 100)) * 100


def _cors(spec: RouteSpec) -> Json:
    assert spec.cors is not None  # noqa: S101 - the caller looks
    sent = ["content-type", REQUEST_ID_HEADER, TIMEOUT_HEADER, TRACK_HEADER, "cache-control"]
    return {
        "type": "CORS",
        "cors": {
            "allowOrigins": list(spec.cors.origins),
            "allowMethods": ["POST"],
            "allowHeaders": sent,
            "exposeHeaders": [REQUEST_ID_HEADER, MODEL_VERSION_HEADER, CACHE_HEADER, "retry-after"],
            "maxAge": 600,
        },
    }


def _target(model: str, version: str) -> Json:
    """A reference to the version's Service, with the defaults filled in, as an API server returns it."""
    return {"group": "", "kind": "Service", "name": version_name(model, version), "port": HTTP_PORT}


def _backend(model: str, version: str) -> Json:
    return {**_target(model, version), "weight": 1}


def _weighted(kubernetes: KubernetesSpec, traffic: Traffic, version: str) -> Json:
    made = {**_target(traffic.model, version), "weight": traffic.weights[version]}
    track = traffic.track(version)
    if not kubernetes.track_header or not track:
        return made
    said = {"set": [{"name": ASSIGNED_TRACK_HEADER, "value": track}]}
    return {**made, "filters": [{"type": _HEADERS, "requestHeaderModifier": said}]}


def duration(seconds: float) -> str:
    """Seconds as the Gateway API writes them: whole seconds, or else milliseconds."""
    if seconds == int(seconds):
        return f"{int(seconds)}s"
    whole, ms = divmod(max(1, round(seconds * 1000)), 1000)
    return f"{whole}s{ms}ms" if whole else f"{ms}ms"


def _notes(traffic: Traffic) -> dict[str, str]:
    notes = {MODEL_NOTE: traffic.model, f"{VERSION_NOTE}s": ",".join(traffic.versions)}
    return notes if traffic.canary is None else {**notes, CANARY_NOTE: traffic.canary}


def _listed(notes: Mapping[str, str]) -> list[str]:
    return [version for version in notes.get(f"{VERSION_NOTE}s", "").split(",") if version]


def _rule_of(route: Mapping[str, Any], name: str) -> Json | None:
    return next((rule for rule in route["spec"].get("rules", ()) if rule.get("name") == name), None)


def _is_ours(name: str) -> bool:
    return name in (WEIGHTS_RULE, CANARY_RULE, METADATA_RULE) or name.startswith(PIN_RULE)


def _version(route: str, reference: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    name = reference["name"]
    if name not in versions:
        raise GatewayError(
            f"HTTPRoute {route} names Service {name}, which is no version that tsctl knows",
            f"Remove it from the rule {WEIGHTS_RULE}, or name its version in deployment.yaml.",
        )
    return versions[name]


def _shares(route: str, given: Mapping[str, int]) -> dict[str, int]:
    """Weights as hundredths of a percent; what rounding leaves goes to the largest remainders."""
    total = sum(given.values())
    if not total:
        raise GatewayError(f"HTTPRoute {route} gives no version a weight, so every request gets 500")
    shares = {version: weight * TOTAL // total for version, weight in given.items()}
    by_rest = sorted(given, key=lambda version: -(given[version] * TOTAL % total))
    for version in by_rest[: TOTAL - sum(shares.values())]:
        shares[version] += 1
    return shares


def _merged(before: Mapping[str, Any] | None, wanted: Json, services: Collection[str], timeouts: Json | None) -> Json:
    """The rule as it was, with the wanted versions, weights and mirrors; where there was none, the wanted one."""
    if before is None:
        return {**wanted, "timeouts": timeouts} if timeouts else wanted
    known = {reference["name"]: reference for reference in before.get("backendRefs", ())}
    backends = [_kept(known.get(one["name"]), one) for one in wanted["backendRefs"]]
    mirrors = [one for one in wanted.get("filters", ()) if one["type"] == _MIRROR]
    filters = [one for one in before.get("filters", ()) if not _is_mirror_of(one, services)]
    made = {**before, "backendRefs": backends}
    made.pop("filters", None)
    return {**made, "filters": [*filters, *mirrors]} if filters or mirrors else made


def _kept(before: Mapping[str, Any] | None, wanted: Json) -> Json:
    """The reference as it was, with the wanted weight, and the wanted track where tsctl says it."""
    if before is None:
        return wanted
    made = {**before, "weight": wanted["weight"]}
    own = [one for one in before.get("filters", ()) if not _says_track(one)] + wanted.get("filters", [])
    made.pop("filters", None)
    return {**made, "filters": own} if own else made


def _is_mirror_of(one: Mapping[str, Any], services: Collection[str]) -> bool:
    return one["type"] == _MIRROR and one["requestMirror"]["backendRef"]["name"] in services


def _says_track(one: Mapping[str, Any]) -> bool:
    said = one.get("requestHeaderModifier", {}).get("set", ()) if one["type"] == _HEADERS else ()
    return [header["name"] for header in said] == [ASSIGNED_TRACK_HEADER]
