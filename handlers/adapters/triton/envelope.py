"""One answer in one tensor: status and headers in a few lines, an empty line, and the body. Pure.

    200
    content-type: application/json
    x-model-version: 1.0

    {"label": "7"}

The gateway's filter for Triton's clusters takes it apart (tsctl/gateway/envoy/render/triton.lua). No header has a line
break: names and values are the worker's own, and an author's class name is checked by the pipeline.
"""

from __future__ import annotations

from functools import lru_cache

from handlers.messages import Outcome


def encode(outcome: Outcome) -> bytes:
    """The outcome as the value of the tensor ANSWER."""
    return _head(outcome.status, outcome.media_type, outcome.headers) + outcome.body


@lru_cache(256)
def _head(status: int, media_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [str(status), *(f"{name}: {value}" for name, value in (("content-type", media_type), *headers))]
    return ("\n".join(lines) + "\n\n").encode("latin-1", "replace")
