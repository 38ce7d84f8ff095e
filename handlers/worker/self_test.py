"""What a worker must show before it serves: right answers, and batches that hold together."""

from __future__ import annotations

import json
from collections.abc import Sequence

from handlers.contract import Tolerance, difference
from handlers.errors import LoadError
from handlers.messages import Outgoing
from handlers.pipeline.pipeline import RequestPath
from handlers.worker.samples import Sample


def prove(path: RequestPath, samples: Sequence[Sample], batch_size: int, tolerance: Tolerance) -> None:
    """Hold the answers to all samples, alone and in batches, against the golden ones.

    Raises:
        LoadError: one is wrong; the first is named.
    """
    for size, how in ((1, "alone"), (batch_size, "in a batch")):
        for begin in range(0, len(samples), size):
            batch = samples[begin : begin + size]
            for sample, answer in zip(batch, path.answer([sample.request for sample in batch]), strict=True):
                wrong = _wrong(sample, answer, tolerance, path.last_failure)
                if wrong:
                    raise LoadError(f"sample {sample.name}, {how}{wrong}")


def refuse_halved(path: RequestPath) -> None:
    """Every answer was right, but no worker may serve that pays for each batch several times.

    Raises:
        LoadError: a batch of samples failed as a whole, and was answered in halves.
    """
    if path.last_split:
        raise LoadError(f"a batch of samples fails, though each sample alone does not: {path.last_split}")


def reason(answer: Outgoing, last_failure: str) -> str:
    """Why a sample was not answered with 200, for whoever runs the node: what the model raised where it did."""
    detail: str = json.loads(answer.body)["detail"]
    return last_failure if answer.status == 500 and last_failure else detail


def _wrong(sample: Sample, answer: Outgoing, tolerance: Tolerance, last_failure: str) -> str:
    if answer.status != 200:
        return f": answered {answer.status}: {reason(answer, last_failure)}"
    found = difference(json.loads(answer.body), sample.golden, tolerance)
    return f", is not the golden answer: {found}" if found else ""
