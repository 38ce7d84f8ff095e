"""The self-test of a worker before it serves: the archive's sample requests, answered alone and in batches, must have
their golden answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import SAMPLE_MEDIA_TYPES, Tolerance, difference, sample_media_type
from handlers.errors import LoadError
from handlers.messages import Outcome, Request
from handlers.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Sample:
    """A request and the answer that a correct model gives."""

    name: str
    request: Request
    golden: Any


def read_requests(folder: Path, types: Mapping[str, str] = SAMPLE_MEDIA_TYPES) -> dict[str, Request]:
    """Every file of `folder` as a request, by file name and in its order.

    Args:
        types: media types by suffixes, besides the usual ones.

    Raises:
        LoadError: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files:
        raise LoadError("the archive has no samples, so this worker can neither warm up nor test its answers")
    return {
        path.name: Request(
            path.read_bytes(), sample_media_type(path.name, types) or "", request_id=f"sample:{path.name}"
        )
        for path in files
    }


def read_samples(model_dir: Path, types: Mapping[str, str] = SAMPLE_MEDIA_TYPES) -> list[Sample]:
    """Every sample request of an archive with its golden answer, in name order.

    Raises:
        LoadError: there is no sample, a sample has no golden answer, or a golden answer has no sample.
    """
    requests = read_requests(model_dir / "samples", types)
    golden_file = model_dir / "golden.json"
    if not golden_file.is_file():
        raise LoadError(f"the archive has no {golden_file.name} with the answers to its samples")
    golden = json.loads(golden_file.read_text(encoding="utf-8"))
    unmatched = sorted(requests.keys() ^ set(golden))
    if unmatched:
        raise LoadError(f"samples and golden answers do not match one to one: {', '.join(unmatched)}")
    return [Sample(name, request, golden[name]) for name, request in requests.items()]


def verify_golden(pipeline: Pipeline, samples: Sequence[Sample], batch_size: int, tolerance: Tolerance) -> None:
    """Compare the answers to all samples, alone and in batches, with the golden ones.

    Raises:
        LoadError: an answer is wrong; the first is named.
    """
    for size, place in ((1, "alone"), (batch_size, "in a batch")):
        for begin in range(0, len(samples), size):
            batch = samples[begin : begin + size]
            outcomes = pipeline.answer([sample.request for sample in batch])
            for sample, outcome in zip(batch, outcomes, strict=True):
                mistake = _mistake(sample, outcome, tolerance, pipeline.last_failure)
                if mistake:
                    raise LoadError(f"sample {sample.name}, {place}{mistake}")


def reason(outcome: Outcome, last_failure: str) -> str:
    """Why a sample was not answered with 200, for the operator: the model's own error where there is one."""
    detail: str = json.loads(outcome.body)["detail"]
    return last_failure if outcome.status == 500 and last_failure else detail


def _mistake(sample: Sample, outcome: Outcome, tolerance: Tolerance, last_failure: str) -> str:
    if outcome.status != 200:
        return f": answered {outcome.status}: {reason(outcome, last_failure)}"
    place = difference(json.loads(outcome.body), sample.golden, tolerance)
    return f", is not the golden answer: {place}" if place else ""
