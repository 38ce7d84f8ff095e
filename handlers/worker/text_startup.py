"""The life of a worker that generates text before it serves: load, self-test, warm-up.

The golden prompts are answered one after the other and then all at once. That is the warm-up as well: the backend has
met long and short prompts, and many answers at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.contract import METRICS_FOLDER_VARIABLE, difference, golden_texts
from handlers.errors import LoadError, RequestError
from handlers.messages import Outcome, Request
from handlers.telemetry.metrics import telemetry
from handlers.worker.exchange import read_asked
from handlers.worker.self_test import Sample, read_requests, read_samples
from handlers.worker.text import TextWorker


def start_text(worker: TextWorker) -> dict[str, Any]:
    """Make the worker ready; returns the facts of the load report.

    Raises:
        LoadError: the worker must not serve.
    """
    config, handler = worker.config, worker.handler
    samples = read_samples(config.model_dir)
    _check_requests(worker, {sample.name: sample.request for sample in samples})
    begin = time.monotonic()
    worker.load()
    loaded = time.monotonic()
    for sample in samples:
        _verify(worker, [sample], "alone")
    alone = time.monotonic()
    _verify(worker, samples, "beside the others")
    together_s = time.monotonic() - alone
    handler.telemetry = telemetry(
        config.model, config.version, config.metrics, os.environ.get(METRICS_FOLDER_VARIABLE), is_text=True
    )
    worker.open()
    return {
        "device": handler.device,
        "backend": handler.backend.name,
        "threads": handler.threads,
        "context": handler.backend.context,
        "metrics": "on" if handler.telemetry.is_on else "off",
        "cache": "off",
        "records": "off",
        "traces": "off",
        "load_s": round(loaded - begin, 3),
        "golden_alone_s": round(alone - loaded, 3),
        "golden_together_s": round(together_s, 3),
    }


def golden_texts_of(worker: TextWorker) -> dict[str, Any]:
    """The present answers to the samples, by file name, for `tsctl archive golden`.

    In place of `start_text`; the worker must not serve afterwards.

    Raises:
        LoadError: a sample is not greedy, or is not answered with 200, or there is none.
    """
    requests = read_requests(worker.config.model_dir / "samples")
    _check_requests(worker, requests)
    worker.load()
    answers = {}
    for name, request in requests.items():
        [outcome] = worker.answer([request])
        answers[name] = _golden_of(worker, name, outcome)
    worker.close()
    return answers


def _check_requests(worker: TextWorker, requests: Mapping[str, Request]) -> None:
    """Raises LoadError for a sample whose answer may differ each time, or comes as a stream."""
    for name, request in requests.items():
        try:
            asked = read_asked(request, worker.handler.defaults())
        except RequestError as error:
            raise LoadError(f"sample {name}: {error.detail}") from None
        if not asked.sampling.is_greedy:
            raise LoadError(f'sample {name}: needs "temperature": 0, or its answer differs each time')
        if asked.is_stream:
            raise LoadError(f'sample {name}: must not ask for a stream: leave "stream" out')


def _verify(worker: TextWorker, samples: Sequence[Sample], place: str) -> None:
    """Raises LoadError for an answer that is not the golden one; samples are answered at the same time."""
    tolerance = worker.config.tolerance
    for begin in range(0, len(samples), worker.options.max_answers):
        batch = samples[begin : begin + worker.options.max_answers]
        outcomes = worker.answer([sample.request for sample in batch])
        for sample, outcome in zip(batch, outcomes, strict=True):
            wrong = difference(_golden_of(worker, sample.name, outcome), sample.golden, tolerance)
            if wrong:
                raise LoadError(f"sample {sample.name}, {place}, is not the golden answer: {wrong}")


def _golden_of(worker: TextWorker, name: str, outcome: Outcome) -> dict[str, Any]:
    """The answers of an outcome as golden ones.

    Raises:
        LoadError: it is no 200.
    """
    document = json.loads(outcome.body)
    if outcome.status != 200:
        detail = worker.last_failure or document.get("detail") or document["error"]["message"]
        raise LoadError(f"sample {name}: answered {outcome.status}: {detail}")
    finishes = [choice["finish_reason"] for choice in document["choices"]]
    return golden_texts(zip(outcome.value, finishes, strict=True))
