"""The routes of models, and what matches no route. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CACHE_HEADER,
    CHOSEN_BY_HEADER,
    COPIED_HEADER,
    MODEL_VERSION_HEADER,
    OPEN_INFERENCE,
    OPEN_INFERENCE_METADATA,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
    RETRY_HEADER,
    RETRY_REFUSED,
    TIMEOUT_HEADER,
    VERSIONS_HEADER,
)
from tsctl.config.deployment import GatewaySpec, RouteSpec, Sticky
from tsctl.config.weights import TOTAL
from tsctl.gateway.access_log import USER_KEY
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    cluster_metadata,
    document,
    equals,
    extension,
    http_filter_type,
    metadata,
    metadata_of,
    overwrite,
    typed,
)
from tsctl.gateway.envoy.render import grpc, openai, protocol
from tsctl.gateway.envoy.render.answers import direct, fixed, not_allowed
from tsctl.gateway.envoy.render.clients import WITHOUT_KEY, Client, client_filters, token_budgets
from tsctl.gateway.envoy.render.upstreams import PATH_KEY, TEXT, Offer, VersionKey, cluster_name
from tsctl.gateway.headers import (
    ENGINE_HEADER,
    KEY_HEADER,
    OWN_PREFIX,
    TRACK_HEADER,
    VERSION_HEADER,
    WEIGHT_HEADER,
)
from tsctl.gateway.traffic import BY_HEADER, BY_PATH, BY_WEIGHT, CANARY, PINNED, Shadow, Traffic

CORS_FILTER = "cors"
#: What a page of another origin may send besides what every page may, and what it may read of an answer.
CORS_SENT = ("content-type", KEY_HEADER, REQUEST_ID_HEADER, TIMEOUT_HEADER, TRACK_HEADER, "cache-control")
CORS_READ = (REQUEST_ID_HEADER, MODEL_VERSION_HEADER, CACHE_HEADER, "retry-after")
#: Seconds for which a browser need not ask again.
CORS_AGE = "600"
#: Writes the user of a sticky route into the request's metadata, for the access log.
USER_FILTER, USER_FILTER_TYPE = "user", "header_to_metadata.v3.Config"
#: How often another node is picked for a retry before it goes to the one that failed. LEAST_REQUEST compares two random
#: nodes, and one that has just died has no request in hand: beside one busy node it wins three times in four.
REPICKS = 50
#: The tries after the first. With one, a request would fail where the node of its second try has just died as well; and
#: where Envoy was given new clusters meanwhile, it takes the node that failed for another one. What a node answers is
#: tried once more at most: from_node.lua marks no answer to a second try.
RETRIES = 2
#: Made by the cluster, which alone knows it: the path of a client never becomes a part of it.
_PATH_ON_NODE = cluster_metadata(PATH_KEY)
#: Absent on what the gateway answers itself.
_ENGINE = overwrite(ENGINE_HEADER, f"%UPSTREAM_METADATA({NAMESPACE}:engine)%")


def routes(
    spec: GatewaySpec,
    specs: Mapping[str, RouteSpec],
    traffic: Collection[Traffic],
    clients: Sequence[Client],
    offers: Mapping[VersionKey, Offer] | None = None,
) -> Json:
    """The route file: every route with its weights, every key, and 404 for all else.

    Args:
        offers: what versions offer of the OpenAI API; None: nothing.
    """
    by_model = {route.model: offer for route in traffic if (offer := openai.offer_of(route, offers or {}))}
    of_models: list[Json] = []
    of_api: list[Json] = []
    paths: dict[str, str] = {}  # and the method that is allowed
    for model in traffic:
        offer = by_model.get(model.model)
        spec_of_model = openai.spec_for(specs.get(model.model, RouteSpec()), offer)
        made, described = _routes_of(model, spec_of_model, offer), _metadata_routes(model, spec_of_model)
        own = dict.fromkeys((route["match"]["path"] for route in made), "POST")
        of_models += [
            *made,
            *(_preflight(model, spec_of_model, path) for path in own if spec_of_model.cors),
            *described,
        ]
        if offer is not None:
            of_api += _api_routes_of(model, spec_of_model, offer)
        paths |= own | dict.fromkeys((route["match"]["path"] for route in described), "GET")
    budgets = token_budgets(spec.budget, clients)
    offered = {
        route.model: (route, specs.get(route.model, RouteSpec()).pinned) for route in traffic if route.model in by_model
    }
    has_users = any(specs.get(model, RouteSpec()).sticky for model in by_model)
    host = {
        "name": "clients",
        "domains": ["*"],
        "request_body_buffer_limit": spec.request_bytes,
        "include_attempt_count_in_response": False,
        "typed_per_filter_config": client_filters(spec.budget, clients, with_bearer=bool(by_model)),
        **({"metadata": openai.budgets_metadata(budgets)} if by_model and budgets else {}),
        "routes": [
            *grpc.grpc_routes(clients),
            fixed({"path": "/healthz"}, "text/plain", "alive\n"),
            *protocol.server_routes(),
            *of_models,
            *protocol.model_routes(traffic, specs),
            *of_api,
            *openai.api_routes(
                offered, {model: offer.kind for model, offer in by_model.items()}, _NO_USER if has_users else {}
            ),
            *(not_allowed(path, method) for path, method in paths.items()),
            direct({"prefix": "/"}, 404),
        ],
    }
    configuration = typed(
        "envoy.config.route.v3.RouteConfiguration",
        name="clients",
        validate_clusters=True,
        virtual_hosts=[host],
        **({"response_headers_to_add": [_ENGINE]} if spec.engine_header else {}),
    )
    return document([configuration])


def traffic_of(configuration: Mapping[str, Any]) -> list[Traffic]:
    """The traffic of every route, read back from a route configuration, as `routes` writes it or Envoy dumps it."""
    traffic = []
    for route in configuration["virtual_hosts"][0]["routes"]:
        values = metadata_of(route)
        if "order" not in values or route["match"]["path"].startswith((protocol.PREFIX, openai.PREFIX)):
            continue
        weights = {version: int(values["weights"][version]) for version in values["order"]}
        shadow = Shadow(values["shadow"], int(values["shadow_share"])) if "shadow" in values else None
        traffic.append(Traffic(values["model"], weights, values.get("canary"), shadow))
    return traffic


def _routes_of(traffic: Traffic, spec: RouteSpec, offer: Offer | None) -> list[Json]:
    plain, of_model = f"/predictions/{traffic.model}", f"{protocol.PREFIX}models/{traffic.model}"

    def at(path: str, of_version: str) -> list[Json]:
        routes = _routes_at(traffic, spec, {"path": path}, lambda version: {"path": of_version.format(version)})
        return [_metered(route, spec, offer) for route in routes]

    by_protocol = at(f"{of_model}/infer", of_model + "/versions/{}/infer")
    added = {"request_headers_to_add": [overwrite(PROTOCOL_HEADER, OPEN_INFERENCE)]}
    return [*at(plain, plain + "/{}"), *({**route, **added} for route in by_protocol)]


def _api_routes_of(traffic: Traffic, spec: RouteSpec, offer: Offer) -> list[Json]:
    """The routes of requests that name the model in their body: as those at its path."""
    return [route for asked in openai.ways_to_ask(offer.kind) for route in _routes_by_name(traffic, spec, offer, asked)]


def _routes_by_name(traffic: Traffic, spec: RouteSpec, offer: Offer, asked: openai.Asked) -> Iterator[Json]:
    model = traffic.model
    for made in _routes_at(traffic, spec, asked.match(model), lambda version: asked.match(f"{model}:{version}")):
        route = _metered(made, spec, offer)
        action = {**route["route"], **asked.waits(offer)}
        yield {**route, "route": action, "request_headers_to_add": [overwrite(PROTOCOL_HEADER, asked.protocol)]}


def _metered(route: Json, spec: RouteSpec, offer: Offer | None) -> Json:
    """The route, with the times of a language model where it is one, and its tokens counted."""
    if offer is None or offer.kind != TEXT:
        return route
    filters = {**route.get("typed_per_filter_config", {}), **openai.metered()}
    return {
        **route,
        "route": {**route["route"], "timeout": openai.timeout(spec, offer)},
        "typed_per_filter_config": filters,
    }


def _metadata_routes(traffic: Traffic, spec: RouteSpec) -> list[Json]:
    """Who asks what a model takes and gives is answered by a worker of its stable version, or of the one in the path.

    No weight chooses, so no rollout counts these requests.
    """
    path = f"{protocol.PREFIX}models/{traffic.model}"
    asked = {path: traffic.stable}
    if spec.pinned:
        asked |= {f"{path}/versions/{version}": version for version in traffic.versions}
    added = {PROTOCOL_HEADER: OPEN_INFERENCE_METADATA, VERSIONS_HEADER: ",".join(traffic.versions)}
    return [
        {
            "name": traffic.model,
            "match": {"path": path, "headers": [equals(":method", "GET")]},
            "metadata": metadata(model=traffic.model),
            "route": {
                "cluster": cluster_name(traffic.model, version),
                "path_rewrite": _PATH_ON_NODE,
                "timeout": f"{spec.deadline_s:g}s",
                "retry_policy": _retries(spec),
            },
            "request_headers_to_add": [
                overwrite(name, value) for name, value in {**added, VERSION_HEADER: version}.items()
            ],
            "response_headers_to_add": [overwrite(MODEL_VERSION_HEADER, version)],
            "response_headers_to_remove": [RETRY_HEADER],
        }
        for path, version in asked.items()
    ]


def _routes_at(traffic: Traffic, spec: RouteSpec, match: Json, pinned: Callable[[str], Json]) -> list[Json]:
    """The routes of one way to ask the model.

    Args:
        match: of requests that name no version.
        pinned: of those that name this one.
    """
    routes = _main_routes(traffic, spec, match)
    if spec.canary_header and traffic.canary is not None:
        testers = {**match, "headers": [equals(TRACK_HEADER, CANARY)]}
        routes.insert(0, _route(traffic, spec, testers, _one_version(traffic, traffic.canary, CANARY, BY_HEADER)))
    for version in traffic.versions if spec.pinned else ():
        action = _one_version(traffic, version, PINNED, BY_PATH)
        routes.append(_route(traffic, spec, pinned(version), action))
    return routes


def _main_routes(traffic: Traffic, spec: RouteSpec, match: Json) -> list[Json]:
    """By weight, and with copies for the shadow. The metadata of the last one is what `traffic_of` reads back.

    A shadow's share of the requests has a route of its own, and not a share of the mirror: so each request says whether
    it was copied, and one without an answer of the shadow is known to be lost.
    """
    values: Json = {"weights": dict(traffic.weights), "order": list(traffic.weights)}
    if traffic.canary is not None:
        values["canary"] = traffic.canary
    if traffic.shadow is None:
        return [_main_route(traffic, spec, match, _by_weight(traffic, spec.sticky), **values)]
    values |= {"shadow": traffic.shadow.version, "shadow_share": traffic.shadow.share}
    copied = _by_weight(traffic, spec.sticky, is_copied=True)
    shadow = cluster_name(traffic.model, traffic.shadow.version, is_shadow=True)
    copied["request_mirror_policies"] = [{"cluster": shadow}]
    if traffic.shadow.share == TOTAL:
        return [_main_route(traffic, spec, match, copied, **values)]
    share = {"numerator": traffic.shadow.share, "denominator": "TEN_THOUSAND"}
    return [
        _main_route(traffic, spec, {**match, "runtime_fraction": {"default_value": share}}, copied),
        _main_route(traffic, spec, match, _by_weight(traffic, spec.sticky), **values),
    ]


def _main_route(traffic: Traffic, spec: RouteSpec, match: Json, action: Json, **values: Any) -> Json:
    route = _route(traffic, spec, match, action, **values)
    if spec.sticky is not None:
        route.setdefault("typed_per_filter_config", {})[USER_FILTER] = _user_for_log(spec.sticky)
    return route


def _user_for_log(sticky: Sticky) -> Json:
    """The access log holds the user, by which a rollout counts users."""
    value = {"metadata_namespace": NAMESPACE, "key": USER_KEY, "type": "STRING"}
    source = {"header": sticky.header} if sticky.header else {"cookie": sticky.cookie}
    return typed(http_filter_type(USER_FILTER_TYPE), request_rules=[{**source, "on_header_present": value}])


#: For requests whose route is not known yet: the filter is there, and finds a header that no client can send.
_NO_USER = {USER_FILTER: _user_for_log(Sticky(header=f"{OWN_PREFIX}none"))}


def _preflight(traffic: Traffic, spec: RouteSpec, path: str) -> Json:
    """A browser's question before the request, which the filter answers; no node gets it."""
    asked = [equals(":method", "OPTIONS"), equals("access-control-request-method", "POST")]
    return {
        "name": traffic.model,
        "match": {"path": path, "headers": [*asked, {"name": "origin", "string_match": {"prefix": "http"}}]},
        "metadata": metadata(model=traffic.model),
        "route": {"cluster": cluster_name(traffic.model, traffic.stable)},
        "typed_per_filter_config": {**WITHOUT_KEY, **_cors(spec)},
    }


def _cors(spec: RouteSpec) -> Json:
    """The settings of the filter for pages of other origins; without them it does nothing."""
    if spec.cors is None:
        return {}
    sent = (*CORS_SENT, *([spec.sticky.header] if spec.sticky and spec.sticky.header else []))
    policy = typed(
        http_filter_type("cors.v3.CorsPolicy"),
        allow_origin_string_match=[{"prefix": ""} if o == "*" else {"exact": o} for o in spec.cors.origins],
        allow_methods="POST",
        allow_headers=", ".join(sent),
        expose_headers=", ".join(CORS_READ),
        max_age=CORS_AGE,
        allow_credentials=bool(spec.sticky and spec.sticky.cookie and "*" not in spec.cors.origins),
        forward_not_matching_preflights=False,
    )
    return {CORS_FILTER: policy}


def _route(traffic: Traffic, spec: RouteSpec, match: Json, action: Json, **values: Any) -> Json:
    cors = _cors(spec)
    return {
        **({"typed_per_filter_config": cors} if cors else {}),
        "name": traffic.model,  # of which the log and the counters have the model
        "match": {**match, "headers": [*match.get("headers", ()), equals(":method", "POST")]},
        "metadata": metadata(model=traffic.model, **values),
        "route": {
            **action,
            "path_rewrite": _PATH_ON_NODE,
            "timeout": f"{spec.deadline_s:g}s",
            "retry_policy": _retries(spec),
        },
    }


def _by_weight(traffic: Traffic, sticky: Sticky | None, is_copied: bool = False) -> Json:
    entries = [_entry(traffic, version, traffic.track(version), BY_WEIGHT, is_copied) for version in traffic.weights]
    if sticky is None:
        return {"weighted_clusters": {"clusters": entries}}
    policy = {"header": {"header_name": sticky.header}} if sticky.header else {"cookie": {"name": sticky.cookie}}
    return {"weighted_clusters": {"clusters": entries, "use_hash_policy": True}, "hash_policy": [policy]}


def _one_version(traffic: Traffic, version: str, track: str, by: str) -> Json:
    """The version alone, in a list of one, because only entries of a weighted list can have headers."""
    return {"weighted_clusters": {"clusters": [{**_entry(traffic, version, track, by), "weight": TOTAL}]}}


def _entry(traffic: Traffic, version: str, track: str, by: str, is_copied: bool = False) -> Json:
    weight = traffic.weights.get(version, 0)
    headers = {
        VERSION_HEADER: version,
        CHOSEN_BY_HEADER: by,
        ASSIGNED_TRACK_HEADER: track or "none",
        WEIGHT_HEADER: str(weight),
        **({COPIED_HEADER: "1"} if is_copied else {}),
    }
    return {
        "name": cluster_name(traffic.model, version),
        "weight": weight,
        "request_headers_to_add": [overwrite(name, value) for name, value in headers.items()],
        **({} if is_copied else {"request_headers_to_remove": [COPIED_HEADER]}),
        "response_headers_to_add": [overwrite(MODEL_VERSION_HEADER, version)],
        "response_headers_to_remove": [RETRY_HEADER],
    }


def _retries(spec: RouteSpec) -> Json:
    """A request that no worker has seen is sent again; on an idempotent route also one that a worker died of."""
    marked = {"present_match": True} if spec.idempotent else {"string_match": {"exact": RETRY_REFUSED}}
    previous_hosts = extension(
        "envoy.retry_host_predicates.previous_hosts",
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    )
    reset = "reset" if spec.idempotent else "reset-before-request"
    return {
        "retry_on": f"connect-failure,refused-stream,retriable-headers,{reset}",
        "retriable_headers": [{"name": RETRY_HEADER, **marked}],
        "num_retries": RETRIES,
        "retry_host_predicate": [previous_hosts],
        "host_selection_retry_max_attempts": REPICKS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }
