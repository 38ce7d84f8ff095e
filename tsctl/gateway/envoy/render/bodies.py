"""How many large bodies are at the nodes at a time, so that what waits there is bounded in bytes. Pure.

Invariants: the length that counts is the real one, because Envoy has the whole body by then. A place is held until the
answer has ended, whatever version and node it is for.
"""

from __future__ import annotations

from tsctl.gateway.envoy.messages import Json, extension, http_filter, http_filter_type

#: Parts of the bytes by the number of digits of a body's length. A body of fewer digits needs no place. Pictures mostly
#: have seven.
PARTS = {5: 1, 6: 1, 7: 4, 8: 2}
#: The part of the bytes that copies for one shadow may take, which need no place.
PART_OF_SHADOW = 4
#: The part of the bytes for requests by gRPC, which have a listener and so places of their own.
PART_OF_GRPC = 8
#: The filter works with times as well, which have no effect where its limits are equal.
_WINDOW, _TIME = "60s", "1s"


def places(waiting_bytes: int, request_bytes: int) -> dict[int, int]:
    """Bodies at a time by the number of digits of their length, one at least; the last number has all longer ones too.

    Args:
        waiting_bytes: of all bodies at a time, shared out by PARTS.
        request_bytes: of the longest request.
    """
    parts = {digits: part for digits, part in PARTS.items() if digits <= len(str(request_bytes))}
    last = max(parts, default=0)
    return {
        digits: max(1, waiting_bytes * part // sum(parts.values()) // (request_bytes if digits == last else 10**digits))
        for digits, part in parts.items()
    }


def shadow_requests(waiting_bytes: int, request_bytes: int) -> int:
    """Copies for one shadow at a time, one at least."""
    return max(1, waiting_bytes // PART_OF_SHADOW // request_bytes)


def places_filters(waiting_bytes: int, request_bytes: int) -> list[Json]:
    """The filter that answers 503 where a body needs a place and there is none; it stands behind the buffer's.

    A small body costs it one look at the length. Envoy has no filter for a fixed number of requests at a time: the
    adaptive one is given equal limits.
    """
    by_digits = places(waiting_bytes, request_bytes)
    if not by_digits:
        return []
    limits = [_if_as_long(digits, _limit(count)) for digits, count in sorted(by_digits.items(), reverse=True)]
    matcher = _first_of([_if_as_long(min(by_digits), {"matcher": _first_of(limits)})])
    return [http_filter("places", "composite.v3.Composite", matcher=matcher)]


def _first_of(matchers: list[Json]) -> Json:
    return {"matcher_list": {"matchers": matchers}}


def _if_as_long(digits: int, then: Json) -> Json:
    length = extension("length", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name="content-length")
    matches = {"safe_regex": {"google_re2": {}, "regex": f"[0-9]{{{digits},}}"}}
    return {"predicate": {"single_predicate": {"input": length, "value_match": matches}}, "on_match": then}


def _limit(count: int) -> Json:
    controller = {
        "concurrency_limit_params": {
            "max_concurrency_limit": count,
            "min_concurrency_limit": count,
            "concurrency_update_interval": _WINDOW,
        },
        "min_rtt_calc_params": {"fixed_value": _TIME, "min_concurrency": count},
    }
    kind = http_filter_type("adaptive_concurrency.v3.AdaptiveConcurrency")
    limit = extension("places", kind, gradient_controller_config=controller)
    return {"action": extension("limit", http_filter_type("composite.v3.ExecuteFilterAction"), typed_config=limit)}
