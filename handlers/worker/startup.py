"""The life of a worker before it serves: load, self-test, warm-up, and the report of how that ended.

Invariant: `start` either leaves a warm worker whose answers to the samples are right, or raises.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from handlers.base import ServingHandler
from handlers.cache.keys import canonical
from handlers.cache.local import ResponseCache
from handlers.cache.open import open_cache
from handlers.contract import (
    METRICS_FOLDER_VARIABLE,
    LoadReport,
)
from handlers.device import finish
from handlers.errors import LoadError
from handlers.own_comparator import require_comparator
from handlers.pipeline.batch_sizes import batch_sizes
from handlers.pipeline.cached import request_key
from handlers.records.recorder import Recorder
from handlers.telemetry.metrics import telemetry
from handlers.telemetry.tracer import open_tracer
from handlers.tracebacks import where
from handlers.worker.accelerate import accelerate
from handlers.worker.config import Acceleration
from handlers.worker.recording import open_records
from handlers.worker.self_test import Sample, read_requests, read_samples, reason, verify_golden
from handlers.worker.text import TextWorker
from handlers.worker.text_startup import golden_texts_of, start_text
from handlers.worker.tuning import TUNING_S, measure_costs
from handlers.worker.warmup import BatchTiming, warm_up
from handlers.worker.worker import Worker

logger = logging.getLogger(__name__)


@contextmanager
def reported_load(model: str, version: str) -> Iterator[dict[str, Any]]:
    """Log one line on how the load in the block ended, with the facts that the block adds; `seconds` is added to them.

    Raises:
        LoadError: the block raised anything.
    """
    begin = time.monotonic()
    facts: dict[str, Any] = {}
    try:
        yield facts
    except Exception as error:
        why = f"{error}" if isinstance(error, LoadError) else where(error)
        report = LoadReport(model, version, os.getpid(), False, " ".join(why.split())[:2000])
        logger.warning("%s", report.line())
        raise LoadError(f"{model} {version} must not serve: {why}") from error
    facts["seconds"] = round(time.monotonic() - begin, 3)
    logger.warning("%s", LoadReport(model, version, os.getpid(), True, facts=facts).line())


def start(worker: Worker | TextWorker) -> dict[str, Any]:
    """Make the worker ready; returns the facts of the load report.

    Raises:
        Exception: the worker must not serve.
    """
    facts = start_text(worker) if isinstance(worker, TextWorker) else _start(worker)
    gc.collect()
    gc.freeze()  # the objects of now stay: the collector need not walk them between requests
    return facts


def _start(worker: Worker) -> dict[str, Any]:
    handler, config, pipeline = worker.handler, worker.config, worker.pipeline
    samples = read_samples(config.model_dir, config.sample_types)
    handler.warm_samples = partial(_warm_samples, worker, samples)
    handler.load()
    accelerated = _accelerate(worker)
    verify_golden(pipeline, samples, config.batch_size, config.tolerance)
    if config.compares_itself:
        require_comparator(handler, [sample.golden for sample in samples])
    timings: list[BatchTiming] = handler.warmup()
    if config.batch_tokens is None and type(handler).probe is not ServingHandler.probe:
        _tune(worker, samples)
        verify_golden(pipeline, samples, config.batch_size, config.tolerance)
    if pipeline.last_split:  # every answer was right, but each batch would be paid for several times
        raise LoadError(f"a batch of samples fails, though each sample alone does not: {pipeline.last_split}")
    # from here on, because the samples' times and outcomes are not those of clients
    handler.telemetry = telemetry(config.model, config.version, config.metrics, os.environ.get(METRICS_FOLDER_VARIABLE))
    recorder = _open_recorder(worker)
    tracer = open_tracer(config.model, config.version, handler.telemetry.spans)
    worker.open(_open_cache(worker, samples), [sample.golden for sample in samples], recorder, tracer)
    if recorder is not None:
        recorder.start()
    if tracer is not None:
        tracer.start()
    for timing in timings:
        handler.telemetry.warmup(timing.batch, timing.cold_s, timing.warm_s)
    cache = "on" if handler.is_deterministic else "off, because answers differ each time"
    return {
        "device": str(handler.device),
        "threads": handler.threads,
        "metrics": "on" if handler.telemetry.is_on else "off",
        "cache": "off" if config.cache is None else cache,
        "records": "off" if recorder is None else "on",
        "traces": "off" if tracer is None else "on",
        **accelerated,
        **worker.protocols.tuned(),
        "warmup": [timing.fact() for timing in timings],
    }


def golden_answers(worker: Worker | TextWorker) -> dict[str, Any]:
    """The present answers to the samples, by file name, for `tsctl archive golden`.

    In place of `start`; the worker must not serve afterwards. Nothing is accelerated, because acceleration is tested
    against these answers.

    Raises:
        LoadError: a sample is not answered with 200, or there is none.
    """
    if isinstance(worker, TextWorker):
        return golden_texts_of(worker)
    worker.handler.load()
    answers = {}
    for name, request in read_requests(worker.config.model_dir / "samples", worker.config.sample_types).items():
        [outcome] = worker.pipeline.answer([request])
        if outcome.status != 200:
            why = reason(outcome, worker.pipeline.last_failure)
            raise LoadError(f"sample {name}: answered {outcome.status}: {why}")
        answers[name] = json.loads(outcome.body)
    return answers


def _warm_samples(worker: Worker, samples: Sequence[Sample]) -> list[BatchTiming]:
    """Answer the samples at batch 1, 2, 4 ... batch_size until the latency settles.

    Raises:
        LoadError: an answer is not a 200.
    """
    pipeline = worker.pipeline

    def run(size: int) -> None:
        batch = [samples[i % len(samples)].request for i in range(size)]
        failed = next((outcome for outcome in pipeline.answer(batch) if outcome.status != 200), None)
        if failed is not None:
            raise LoadError(f"warm-up at batch {size} failed: {reason(failed, pipeline.last_failure)}")

    return warm_up(run, batch_sizes(worker.config.batch_size), worker.config.warmup_budget_s, time.monotonic)


def _tune(worker: Worker, samples: Sequence[Sample]) -> None:
    """Have the handler cut batches as is fastest on this device.

    Raises:
        LoadError: `prepare` rejects every sample, so there is nothing to measure with.
    """
    handler = worker.handler
    items = [handler.decode(sample.request.body, sample.request.media_type) for sample in samples]
    results = handler.prepare(items)
    prepared = [item for item in results if not isinstance(item, Exception)]
    if not prepared:
        raise LoadError(
            f"micro-batches cannot be measured, because prepare rejects every sample: {next(iter(results), 'none')};"
            " give batch.tokens in archive.yaml"
        )

    def probe(tokens: int) -> int:
        with torch.inference_mode():
            ran = handler.probe(prepared, tokens)
            finish(handler.device)
        return ran

    budget_s = min(TUNING_S, worker.config.warmup_budget_s)
    is_one_core = handler.device.type == "cpu" and handler.threads == 1
    timer = time.process_time if is_one_core else time.perf_counter  # several threads wait for each other, or a GPU
    handler.token_costs = measure_costs(probe, budget_s, time.monotonic, timer)


def _accelerate(worker: Worker) -> dict[str, str]:
    wanted, handler = worker.config.acceleration, worker.handler
    if wanted == Acceleration():
        return {}
    if not isinstance(getattr(handler, "network", None), torch.nn.Module):
        raise LoadError("compile, dtype, quantize and channels_last change self.network, and load() set none")
    return accelerate(handler.network, wanted, handler.device, handler.is_fixed_shape)


def _open_cache(worker: Worker, samples: Sequence[Sample]) -> ResponseCache | None:
    config, handler = worker.config, worker.handler
    if config.cache is None or not handler.is_deterministic:
        return None
    cache = open_cache(config.cache, config.model_dir, config.tolerance, handler.telemetry.shared_cache)
    for sample in samples:
        try:
            request_key(cache, sample.request, handler.decode(sample.request.body, sample.request.media_type))
        except TypeError as error:
            raise LoadError(f"the cache cannot tell requests apart by what decode returns: {error}") from None
    return cache


def _open_recorder(worker: Worker) -> Recorder | None:
    config, handler = worker.config, worker.handler
    count, answer = handler.telemetry.recorded, worker.answer_again
    return open_records(config, handler.summarize, canonical, handler.redact, count, answer, config.batch_size)
