"""Whole HTTP bodies in, envelopes out: how the gateway asks a model on Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
from pydantic_core import from_json

from handlers.adapters.triton.envelope import encode
from handlers.contract import (
    CHECK_HEADER,
    CHECK_HEALTH,
    HEADER_LENGTH_HEADER,
    HELD_ENCODING_HEADER,
    HELD_LENGTH_HEADER,
    HELD_NONE,
    TRITON_ANSWER,
)
from handlers.messages import Outcome, Request, bare_media_type, request_id_of
from handlers.protocols.encoding import ENCODING_HEADER
from handlers.worker.worker import Worker

_HELD = {HELD_ENCODING_HEADER: ENCODING_HEADER, HELD_LENGTH_HEADER: HEADER_LENGTH_HEADER}


def execute(worker: Worker, requests: Sequence[Any]) -> list[Any]:
    """One response for each of Triton's requests."""
    read = [read_request(request) for request in requests]
    return [_response(request, outcome) for request, outcome in zip(read, worker.answer(read), strict=True)]


def _response(request: Request, outcome: Outcome) -> Any:
    """The outcome in an envelope; a failed health check as an error, because it reads the status of Triton's answer."""
    if outcome.status != 200 and request.headers.get(CHECK_HEADER) == CHECK_HEALTH:
        code = backend.TritonError.UNAVAILABLE if outcome.status == 503 else backend.TritonError.INTERNAL
        return backend.InferenceResponse(error=backend.TritonError(f"the worker answers {outcome.status}", code))
    content = np.frombuffer(encode(outcome), np.uint8)[np.newaxis]
    return backend.InferenceResponse([backend.Tensor(TRITON_ANSWER, content)])


def read_request(request: Any) -> Request:
    """The request of a client, whose headers Triton hands over as parameters."""
    headers = {name.lower(): value for name, value in from_json(request.parameters()).items() if type(value) is str}
    for held, name in _HELD.items():
        if (value := headers.pop(held, HELD_NONE)) != HELD_NONE:
            headers[name] = value
    body = request.inputs()[0].as_numpy().tobytes()
    media_type = bare_media_type(headers.get("content-type", ""))
    return Request(body, media_type, headers, request_id_of(headers, request.request_id() or None))
