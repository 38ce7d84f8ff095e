"""The life of a worker that generates text before it serves: load, self-test, warm-up.

The golden prompts are answered one after the other and then all at once. That is the warm-up as well: the backend has
met long and short prompts, and many answers at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handlers.contract import METRICS_FOLDER_VARIABLE, difference, golden_texts
from handlers.errors import LoadError, RequestError
from handlers.messages import Outcome, Request
from handlers.own_comparator import require_comparator
from handlers.records.recorder import Recorder
from handlers.records.texts import text_features
from handlers.telemetry.metrics import telemetry
from handlers.telemetry.tracer import open_tracer
from handlers.worker.exchange import read_asked
from handlers.worker.recording import open_records
from handlers.worker.self_test import Sample, read_requests, read_samples
from handlers.worker.text import TextWorker

#: Of stable's answers to requests with a copy, so many are made again at a time: as few clients as that wait for it.
TOGETHER = 4


def start_text(worker: TextWorker) -> dict[str, Any]:
    """Make the worker ready; returns the facts of the load report.

    Raises:
        LoadError: the worker must not serve.
    """
    config, handler = worker.config, worker.handler
    samples = read_samples(config.model_dir)
    answers = _answers_of(worker, {sample.name: sample.request for sample in samples})
    if config.compares_itself:
        require_comparator(handler)
    begin = time.monotonic()
    worker.load()
    loaded = time.monotonic()
    for sample in samples:
        _verify(worker, [sample], "alone")
    alone = time.monotonic()
    for group in _groups(samples, answers, worker.options.max_answers):
        _verify(worker, group, "beside the others")
    together_s = time.monotonic() - alone
    handler.telemetry = telemetry(
        config.model, config.version, config.metrics, os.environ.get(METRICS_FOLDER_VARIABLE), is_text=True
    )
    tracer = open_tracer(config.model, config.version, handler.telemetry.spans)
    recorder = _open_recorder(worker)
    worker.open(recorder, tracer)
    if recorder is not None:
        recorder.start()
    if tracer is not None:
        tracer.start()
    return {
        "device": handler.device,
        "backend": handler.backend.name,
        "threads": handler.threads,
        "context": handler.backend.context,
        "metrics": "on" if handler.telemetry.is_on else "off",
        "cache": "off",
        "records": "off" if recorder is None else "on",
        "traces": "off" if tracer is None else "on",
        "load_s": round(loaded - begin, 3),
        "golden_alone_s": round(alone - loaded, 3),
        "golden_together_s": round(together_s, 3),
    }


def _open_recorder(worker: TextWorker) -> Recorder | None:
    handler = worker.handler
    return open_records(
        worker.config,
        text_features,
        lambda item: item.body,
        lambda item: handler.redact(item.content),
        handler.telemetry.recorded,
        worker.answer_again,
        min(TOGETHER, worker.options.max_answers),
    )


def golden_texts_of(worker: TextWorker) -> dict[str, Any]:
    """The present answers to the samples, by file name, for `tsctl archive golden`.

    In place of `start_text`; the worker must not serve afterwards.

    Raises:
        LoadError: a sample is not greedy, or is not answered with 200, or there is none.
    """
    requests = read_requests(worker.config.model_dir / "samples")
    _answers_of(worker, requests)
    worker.load()
    answers = {}
    for name, request in requests.items():
        [outcome] = worker.answer([request])
        answers[name] = _golden_of(worker, name, outcome)
    worker.close()
    return answers


def _answers_of(worker: TextWorker, requests: Mapping[str, Request]) -> dict[str, int]:
    """How many answers each sample asks for.

    Raises:
        LoadError: an answer may differ each time, comes as a stream, or there are more than the worker has places.
    """
    answers = {}
    for name, request in requests.items():
        try:
            asked = read_asked(request, worker.handler.defaults())
        except RequestError as error:
            raise LoadError(f"sample {name}: {error.detail}") from None
        if not asked.sampling.is_greedy:
            raise LoadError(f'sample {name}: needs "temperature": 0, or its answer differs each time')
        if asked.is_stream:
            raise LoadError(f'sample {name}: must not ask for a stream: leave "stream" out')
        answers[name] = asked.all_answers
        if answers[name] > worker.options.max_answers:
            raise LoadError(f"sample {name}: asks for {answers[name]} answers, and max_answers is less")
    return answers


def _groups(samples: Sequence[Sample], answers: Mapping[str, int], places: int) -> Iterator[list[Sample]]:
    """The samples in groups whose answers have a place each."""
    group: list[Sample] = []
    taken = 0
    for sample in samples:
        if taken + answers[sample.name] > places:
            yield group
            group, taken = [], 0
        group.append(sample)
        taken += answers[sample.name]
    yield group


def _verify(worker: TextWorker, samples: Sequence[Sample], place: str) -> None:
    """Raises LoadError for an answer that is not the golden one; samples are answered at the same time."""
    outcomes = worker.answer([sample.request for sample in samples])
    for sample, outcome in zip(samples, outcomes, strict=True):
        wrong = difference(_golden_of(worker, sample.name, outcome), sample.golden, worker.config.tolerance)
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
