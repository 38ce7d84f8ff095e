"""What the cluster of a version on Triton has besides: its worker's answer comes in an envelope. Pure.

A request goes to Triton with its whole body as the one input of the model, and its headers as parameters. The answer is
one tensor with status, headers and body, which triton.lua takes apart; so from_node.lua, and everything after it, sees
what a worker on any other engine answers.
"""

from __future__ import annotations

from handlers.contract import (
    HEADER_LENGTH_HEADER,
    HELD_ENCODING_HEADER,
    HELD_LENGTH_HEADER,
    HELD_NONE,
    PROBLEM_MEDIA_TYPE,
    RETRY_DIED,
    RETRY_HEADER,
    RETRY_REFUSED,
    TRITON_LONGEST_ANSWER,
)
from tsctl.gateway.envoy.messages import NAMESPACE, Json, http_filter, lua
from tsctl.gateway.envoy.render.problems import node_problems

#: Different heads of envelopes that each of Envoy's threads remembers: one for each class of the predictions.
MOST_HEADS = 4096
#: Envoy holds an answer whole: the tensor, and the JSON before it.
BUFFERS: Json = {"per_connection_buffer_limit_bytes": TRITON_LONGEST_ANSWER + (64 << 10)}
#: Headers of a health check, which passes no filter.
CHECK_HEADERS = {HEADER_LENGTH_HEADER: "0"}


def envelope_filter(model: str, version: str) -> Json:
    """The filter that gives Triton a request, and takes the envelope of its answer apart."""
    source = lua(
        "problem.lua",
        "triton.lua",
        NAMESPACE=NAMESPACE,
        LENGTH_HEADER=HEADER_LENGTH_HEADER,
        HELD_LENGTH_HEADER=HELD_LENGTH_HEADER,
        HELD_ENCODING_HEADER=HELD_ENCODING_HEADER,
        HELD_NONE=HELD_NONE,
        MOST_HEADS=MOST_HEADS,
        RETRY_HEADER=RETRY_HEADER,
        REFUSED=RETRY_REFUSED,
        DIED=RETRY_DIED,
        PROBLEM_MEDIA_TYPE=PROBLEM_MEDIA_TYPE,
        **node_problems(model, version),
    )
    return http_filter("triton", "lua.v3.Lua", default_source_code=source)


def ready_check(path: str) -> Json:
    """The question whether Triton has loaded the model, for an archive without samples.

    Args:
        path: where the model answers.
    """
    return {"path": path.removesuffix("infer") + "ready", "method": "GET"}
