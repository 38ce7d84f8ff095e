"""The OpenAI API, and answers that are counted in tokens: filters, routes, and budgets in tokens. Pure.

A request names its model in the body. The first route that it meets has the filter that reads the body; with what that
finds Envoy looks for a route once more, and the routes of models stand before the first one. So a model has the same
weights, pins and copies as at its other path, and requests of other paths are never read.

Invariant: all that is dear here runs on the routes of language models and of the API alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from handlers.contract import (
    CLIENT_HEADER,
    JSON,
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    OPENAI_EMBEDDINGS,
    OPENAI_FAILED,
    OPENAI_INVALID,
    OPENAI_TYPES,
    PROBLEM_MEDIA_TYPE,
    TOKENS_COMMENT,
    TOKENS_HEADER,
    openai_error,
)
from tsctl.config.deployment import MOST_TOKENS, RouteSpec
from tsctl.gateway.access_log import ANSWER_KEY, BROKEN, FINISH_KEY, PROMPT_KEY
from tsctl.gateway.envoy.messages import (
    NAMESPACE,
    Json,
    document,
    equals,
    http_filter,
    http_filter_type,
    lua,
    typed,
    watched,
)
from tsctl.gateway.envoy.render.answers import fixed, not_allowed
from tsctl.gateway.envoy.render.inside import inside_listener
from tsctl.gateway.envoy.render.upstreams import EMBEDDINGS, TEXT, Offer
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.headers import CHARGE_HEADER, CHARGED_HEADER, CHECKED_HEADER, METERED_HEADER
from tsctl.gateway.traffic import Traffic

#: Begins the API's paths.
PREFIX = "/v1/"
#: The path of each kind of request on the gateway, and on a node whose server speaks the API itself.
PATHS = {
    OPENAI_CHAT: f"{PREFIX}chat/completions",
    OPENAI_COMPLETION: f"{PREFIX}completions",
    OPENAI_EMBEDDINGS: f"{PREFIX}embeddings",
}
PROTOCOLS_OF = {TEXT: (OPENAI_CHAT, OPENAI_COMPLETION), EMBEDDINGS: (OPENAI_EMBEDDINGS,)}
MODELS_PATH = f"{PREFIX}models"
#: The filters that read the body of a request, and count the tokens of an answer.
READ_FILTER, METER_FILTER = "openai_request", "openai"
_READ_TYPE = "json_to_metadata.v3.JsonToMetadata"
#: Dynamic metadata of a request: what its body says, and that it names no model.
MODEL_KEY, STREAM_KEY, UNREAD_KEY = "asked_model", "asked_stream", "unread"
#: The name of the listener of budgets in tokens, and of the cluster that leads to it.
TOKENS = "tokens"
#: Beyond the time that a worker gives itself, so that it says itself what was too slow.
SLACK_S = 5.0
#: Of an answer in one piece, the part at its end in which its usage is looked for; and of one event of a stream.
LONGEST_TAIL, LONGEST_LINE = 16 << 10, 1 << 20
#: The media type of a stream.
EVENT_STREAM = "text/event-stream"
#: Tokens of a stream that are charged together while it runs.
PAID_AT_ONCE = 16
_BROKEN_MESSAGE = "The answer ended before it was complete."


@dataclass(frozen=True)
class Asked:
    """One way to ask for a model by its name in the body."""

    protocol: str
    path: str
    is_stream: bool

    def match(self, model: str) -> Json:
        """Of requests that name the model so."""
        found = [_says(MODEL_KEY, {"string_match": {"exact": model}})]
        if self.is_stream:
            found.append(_says(STREAM_KEY, {"bool_match": True}))
        return {"path": self.path, "dynamic_metadata": found}

    def waits(self, offer: Offer) -> Json:
        """The timeout of a route besides that for the whole: of the first byte, and between two bytes of a stream."""
        return {"idle_timeout": f"{offer.first_token_s + SLACK_S:g}s"} if self.is_stream else {}


def ways_to_ask(kind: str) -> list[Asked]:
    """How models of this kind are asked; streams first, because a request without `stream` matches the others too."""
    return [
        Asked(protocol, PATHS[protocol], is_stream)
        for protocol in PROTOCOLS_OF[kind]
        for is_stream in ((True, False) if kind == TEXT else (False,))
    ]


def offer_of(traffic: Traffic, offers: Mapping[tuple[str, str], Offer]) -> Offer | None:
    """What a model offers by its route: the kind of its stable version, and the longest times of those of that kind."""
    of_versions = [offer for version in traffic.versions if (offer := offers.get((traffic.model, version)))]
    kind = offers.get((traffic.model, traffic.stable))
    same = [offer for offer in of_versions if kind is not None and offer.kind == kind.kind]
    if not same:
        return None
    return Offer(same[0].kind, max(o.first_token_s for o in same), max(o.answer_s for o in same))


def spec_for(spec: RouteSpec, offer: Offer | None) -> RouteSpec:
    """The rules of a route: a language model's deadline is its archive's, unless the deployment has one."""
    if offer is None or offer.kind != TEXT or "deadline_s" in spec.model_fields_set:
        return spec
    return spec.model_copy(update={"deadline_s": offer.answer_s})


def timeout(spec: RouteSpec, offer: Offer | None) -> str:
    """Of the whole answer. A language model's worker knows its deadline, and is given the time to say so."""
    return f"{spec.deadline_s + (SLACK_S if offer is not None and offer.kind == TEXT else 0):g}s"


def metered() -> Json:
    """The settings of a route whose answers are counted in tokens."""
    return {METER_FILTER: _enabled("lua.v3.LuaPerRoute")}


def openai_filters() -> list[Json]:
    """The filters, which only routes of language models and of the API switch on; they stand behind those of keys."""
    return [
        {**http_filter(METER_FILTER, "lua.v3.Lua", default_source_code=_meter()), "disabled": True},
        {**http_filter(READ_FILTER, _READ_TYPE, request_rules=_rules()), "disabled": True},
    ]


def _meter() -> Json:
    return lua(
        "member.lua",
        "openai.lua",
        NAMESPACE=NAMESPACE,
        PREFIX=PREFIX,
        TOKENS=TOKENS,
        CLIENT_HEADER=CLIENT_HEADER,
        METERED_HEADER=METERED_HEADER,
        CHECKED_HEADER=CHECKED_HEADER,
        CHARGED_HEADER=CHARGED_HEADER,
        CHARGE_HEADER=CHARGE_HEADER,
        MOST_DEBT=MOST_TOKENS,
        PROMPT_KEY=PROMPT_KEY,
        ANSWER_KEY=ANSWER_KEY,
        FINISH_KEY=FINISH_KEY,
        BROKEN=BROKEN,
        BROKEN_EVENT=f"event: error\ndata: {json.dumps(openai_error(502, _BROKEN_MESSAGE, 'broken-stream'))}\n\n",
        TOKENS_HEADER=TOKENS_HEADER,
        TOKENS_COMMENT=TOKENS_COMMENT,
        EVENT_STREAM=EVENT_STREAM,
        JSON=JSON,
        PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE,
        TYPES=OPENAI_TYPES,
        INVALID=OPENAI_INVALID,
        FAILED=OPENAI_FAILED,
        LONGEST_TAIL=LONGEST_TAIL,
        LONGEST_LINE=LONGEST_LINE,
        PAID_AT_ONCE=PAID_AT_ONCE,
    )


def _rules() -> Json:
    """What is read of a body; one that is no JSON object with a model is marked."""
    unread = {"metadata_namespace": NAMESPACE, "key": UNREAD_KEY, "value": "1"}
    return {
        "rules": [
            {
                "selectors": [{"key": "model"}],
                "on_present": {"metadata_namespace": NAMESPACE, "key": MODEL_KEY},
                "on_missing": unread,
                "on_error": unread,
            },
            {
                "selectors": [{"key": "stream"}],
                "on_present": {"metadata_namespace": NAMESPACE, "key": STREAM_KEY},
            },
        ],
        "allow_content_types_regex": {"regex": f"(?i){JSON} *(;.*)?"},
    }


def api_routes(offered: Mapping[str, tuple[Traffic, bool]], kinds: Mapping[str, str], filters: Json) -> list[Json]:
    """What stands behind the routes of models: the list of them, and where no model was found.

    Args:
        offered: by model, its traffic and whether clients may name a version.
        kinds: by model.
        filters: settings that a request needs before its model is known.
    """
    if not offered:
        return []
    unread = (
        f'The body must be JSON (content-type: {JSON}) and name a model, such as {{"model": "{next(iter(offered))}"}}.'
    )
    asks = {"regex": "|".join(PATHS.values())}
    encoded = {
        "match": {"safe_regex": asks, "headers": [_POST, _ENCODED]},
        "direct_response": {"status": 415},
        "typed_per_filter_config": metered(),
    }
    first = {
        "match": {"safe_regex": asks, "headers": [_POST]},
        "direct_response": {"status": 400, "body": {"inline_string": unread}},
        "typed_per_filter_config": {
            **metered(),
            READ_FILTER: _enabled(_READ_TYPE, request_rules=_rules()),
            **filters,
        },
    }
    unknown = [
        _unknown(path, [m for m in offered if protocol in PROTOCOLS_OF[kinds[m]]], offered)
        for protocol, path in PATHS.items()
    ]
    paths = (*PATHS.values(), MODELS_PATH, *(f"{MODELS_PATH}/{name}" for name in _names(offered)))
    return [
        *unknown,
        encoded,
        first,
        *_lists(offered),
        *(not_allowed(path, "POST" if path in PATHS.values() else "GET") for path in paths),
    ]


def _names(offered: Mapping[str, tuple[Traffic, bool]]) -> Iterator[str]:
    """How the models are called, and their versions where they may be."""
    for model, (traffic, is_pinned) in offered.items():
        yield model
        yield from (f"{model}:{version}" for version in (traffic.versions if is_pinned else ()))


def _unknown(path: str, models: Collection[str], offered: Mapping[str, tuple[Traffic, bool]]) -> Json:
    """404 for a request that names another model than those that answer here."""
    names = ", ".join(_names({model: offered[model] for model in models}))
    text = f"No model of this name answers at {path}. " + (f"There are: {names}." if names else "There is none.")
    return {
        "match": {"path": path, "headers": [_POST], "dynamic_metadata": [_says(MODEL_KEY, {"present_match": True})]},
        "direct_response": {"status": 404, "body": {"inline_string": text}},
    }


def _lists(offered: Mapping[str, tuple[Traffic, bool]]) -> list[Json]:
    entries = {name: {"id": name, "object": "model", "created": 0, "owned_by": "tsctl"} for name in _names(offered)}
    pages = {f"{MODELS_PATH}/{name}": json.dumps(entry) for name, entry in entries.items()}
    pages[MODELS_PATH] = json.dumps({"object": "list", "data": list(entries.values())})
    with_key: Json = {"typed_per_filter_config": {}}
    return [{**fixed({"path": path, "headers": [_GET]}, JSON, body), **with_key} for path, body in pages.items()]


_GET, _POST = equals(":method", "GET"), equals(":method", "POST")
_ENCODED = {"name": "content-encoding", "present_match": True}


def _says(key: str, value: Json) -> Json:
    """That the body says so."""
    return {"filter": NAMESPACE, "path": [{"key": key}], "value": value}


def _enabled(kind: str, **content: object) -> Json:
    """A filter that is off elsewhere, with its settings for a route."""
    return typed("envoy.config.route.v3.FilterConfig", config=typed(http_filter_type(kind), **content))


# ---- budgets in tokens -----------------------------------------------------------------------------------------------


def budgets_metadata(budgets: Mapping[str, int]) -> Json:
    """What the script knows of budgets: tokens a minute by client."""
    return {"filter_metadata": {METER_FILTER: {"budgets": dict(budgets)}}}


def tokens_listener(files: GatewayFiles) -> Json:
    """The listener that holds the budgets; only the script asks it."""
    limit = http_filter(TOKENS, "local_ratelimit.v3.LocalRateLimit", stat_prefix="unlimited_tokens")
    return inside_listener(
        TOKENS,
        rds={"route_config_name": TOKENS, "config_source": watched(files.tokens)},
        http_filters=[limit, http_filter("router", "router.v3.Router")],
    )


def tokens(budgets: Mapping[str, int]) -> Json:
    """The file of the listener's routes: a bucket for each client, which a tokens-per-minute budget fills.

    An answer is charged when its tokens are known, so a client may owe tokens; Envoy's buckets cannot. So each is
    larger than the budget by MOST_TOKENS, and a client is let in while there is more than that in its bucket: all of
    that and one token are taken out and put back at once. A bucket is kept as long as this file stays the same.
    """
    all_ = MOST_TOKENS + 1
    looks = {"number": all_}, {"number": all_, "is_negative_hits": True}
    limits = [
        *(_limit(CHECKED_HEADER, hits) for hits in looks),
        _limit(CHARGED_HEADER, {"format": f"%REQ({CHARGE_HEADER})%"}),
    ]
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "tsctl.token_budgets"}
    buckets = typed(
        http_filter_type("local_ratelimit.v3.LocalRateLimit"),
        stat_prefix="token_budgets",
        token_bucket={"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "0.05s"},
        filter_enabled=always,
        filter_enforced=always,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        rate_limits=limits,
        descriptors=[
            {
                "entries": [{"key": "client", "value": client}],
                "token_bucket": {
                    "max_tokens": MOST_TOKENS + per_minute,
                    "tokens_per_fill": per_minute,
                    "fill_interval": "60s",
                },
            }
            for client, per_minute in budgets.items()
        ],
    )
    host = {
        "name": TOKENS,
        "domains": ["*"],
        "typed_per_filter_config": {TOKENS: buckets},
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
    }
    return document([typed("envoy.config.route.v3.RouteConfiguration", name=TOKENS, virtual_hosts=[host])])


def _limit(header: str, hits: Json) -> Json:
    action = {"request_headers": {"header_name": header, "descriptor_key": "client"}}
    return {"actions": [action], "hits_addend": hits}
