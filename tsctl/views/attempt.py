"""Renders what came of a model's answers to its author's requests. Pure."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handlers.contract import Tolerance, difference
from tsctl.archive.attempt import Answer, Answers, Attempt, Body
from tsctl.errors import printable
from tsctl.host.documents import parse_json

#: Characters of an answer that are shown.
SHOWN = 2000


def lines(
    result: Attempt, batches: Sequence[Sequence[Body]], golden: Mapping[str, Any], tolerance: Tolerance
) -> Iterator[str]:
    """What people see: each answer, the tracebacks, and a line of times for each batch.

    Args:
        golden: the golden answers by the names of samples, as far as there are any.
    """
    if result.load_s is not None:
        yield f"loaded in {result.load_s:.1f} s on {result.device}"
    for batch, requests in zip(result.batches, batches, strict=False):
        for request, answer in zip(requests, batch.answers, strict=True):
            yield f"\n{printable(request.name)}: {_head(answer)}{_against(answer, golden.get(request.name), tolerance)}"
            yield _body(answer)
        for failure in batch.failures:
            yield "\n" + printable(failure, "\n")
        yield _times(batch)
    if result.profile:
        yield "\n" + result.profile.rstrip()
    if result.error:
        yield printable(result.error, "\n")


def document(result: Attempt, batches: Sequence[Sequence[Body]]) -> dict[str, Any]:
    """The same for machines; a body that is no JSON is base64."""
    return {
        "load_s": result.load_s,
        "device": result.device,
        "error": result.error or None,
        "batches": [
            {
                "answers": [
                    {
                        "sample": request.name,
                        "status": answer.status,
                        "media_type": answer.media_type,
                        "class": answer.class_name,
                        **_machine_body(answer),
                    }
                    for request, answer in zip(requests, batch.answers, strict=True)
                ],
                "tracebacks": batch.failures,
                "first_ms": batch.first_ms,
                "ms": batch.ms,
                "stages_ms": batch.stages,
            }
            for batch, requests in zip(result.batches, batches, strict=False)
        ],
    }


def _head(answer: Answer) -> str:
    predicted = f", class {printable(answer.class_name)}" if answer.class_name else ""
    return f"{answer.status} {printable(answer.media_type)}{predicted}"


def _against(answer: Answer, golden: Any, tolerance: Tolerance) -> str:
    if golden is None or answer.status != 200:
        return ""
    try:
        place = difference(parse_json(answer.body), golden, tolerance)
    except ValueError:
        place = "it is no JSON"
    return f", is not the golden answer: {printable(place)}" if place else ", the golden answer"


def _body(answer: Answer) -> str:
    if not answer.media_type.endswith("json"):
        return f"  {len(answer.body)} bytes"
    try:
        text = json.dumps(parse_json(answer.body), ensure_ascii=False)
    except ValueError:
        text = answer.body.decode(errors="replace")
    return "  " + printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)")


def _machine_body(answer: Answer) -> dict[str, Any]:
    try:
        if answer.media_type.endswith("json"):
            return {"body": parse_json(answer.body)}
    except ValueError:
        pass
    return {"body_base64": b64encode(answer.body).decode()}


def _times(batch: Answers) -> str:
    count = len(batch.answers)
    of = "1 request" if count == 1 else f"a batch of {count}"
    if batch.ms is None:
        return f"  {of}: {batch.first_ms:.2f} ms"
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in batch.stages.items())
    return f"  {of}: {batch.ms:.2f} ms ({stages}), the first time {batch.first_ms:.2f}"
