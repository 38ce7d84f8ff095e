"""A worker's life, whatever server holds it: load, self-test, warm-up, then one outcome for each request.

Invariant: `start` either leaves a warm worker whose answers to the samples are right, or raises; `answer` returns one
outcome per request, in order, and never raises for a client's mistake or a model's failure.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_json

from handlers.base import ServingHandler
from handlers.cache.local import ResponseCache
from handlers.cache.open import open_cache
from handlers.contract import (
    CACHE_HEADER,
    CACHE_STATES,
    CLASS_HEADER,
    METRICS_FOLDER_VARIABLE,
    MODEL_VERSION_HEADER,
    OPEN_INFERENCE,
    PROTOCOL_HEADER,
    LoadReport,
)
from handlers.device import choose_device, set_threads, threads_per_worker, usable_cores
from handlers.errors import LoadError, ModelFailed, RequestError
from handlers.messages import Outcome, Request, problem
from handlers.pipeline.batch_sizes import batch_sizes
from handlers.pipeline.pipeline import Pipeline, request_key
from handlers.protocols import open_inference
from handlers.telemetry.metrics import telemetry
from handlers.worker.accelerate import accelerate
from handlers.worker.config import Acceleration, WorkerConfig
from handlers.worker.self_test import Sample, read_requests, read_samples, reason, verify_golden
from handlers.worker.warmup import BatchTiming, warm_up

logger = logging.getLogger(__name__)

#: Seconds from the last answers to the end of a worker whose device failed.
ENDING_S = 0.5


class Worker:
    """One author's handler, with everything that it needs to answer requests.

    Args:
        handler: a new object of the author's class; its attributes are set here.

    Raises:
        LoadError: another package `handlers` runs than the archive's.
    """

    def __init__(self, handler: ServingHandler, config: WorkerConfig) -> None:
        _check_package(config.model_dir)
        self.handler = handler
        self.config = config
        _configure(handler, config)
        set_threads(handler.threads)
        handler.warm_samples = self.warm_samples
        pads = config.acceleration.compile and handler.is_fixed_shape
        self.pipeline = Pipeline(handler, config.request_bytes, config.response_timeout_s / 2, pads)
        version = (MODEL_VERSION_HEADER, config.version)
        self._headers = {"": (version,), **{state: (version, (CACHE_HEADER, state)) for state in CACHE_STATES}}
        self._samples: list[Sample] = []
        self._scalars: frozenset[str] = frozenset()

    # ---- before it serves ----------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Load, self-test and warm up; returns the facts of the load report.

        Raises:
            Exception: the worker must not serve.
        """
        handler, config = self.handler, self.config
        self._samples = read_samples(config.model_dir)
        handler.load()
        self._scalars = open_inference.scalar_fields(handler.Request)
        accelerated = self._accelerate()
        verify_golden(self.pipeline, self._samples, config.batch_size, config.tolerance)
        timings: list[BatchTiming] = handler.warmup()
        if self.pipeline.last_split:  # every answer was right, but each batch would be paid for several times
            raise LoadError(f"a batch of samples fails, though each sample alone does not: {self.pipeline.last_split}")
        # from here on, because the samples' times and outcomes are not those of clients
        handler.telemetry = telemetry(
            config.model, config.version, config.metrics, os.environ.get(METRICS_FOLDER_VARIABLE)
        )
        self.pipeline.open(self._open_cache(), handler.telemetry)
        for timing in timings:
            handler.telemetry.warmup(timing.batch, timing.cold_s, timing.warm_s)
        gc.collect()
        gc.freeze()  # the objects of now stay: the collector need not walk them between requests
        return {**self._facts(), **accelerated, "warmup": [timing.fact() for timing in timings]}

    def warm_samples(self) -> list[BatchTiming]:
        """Answer the samples at batch 1, 2, 4 ... batch_size until the latency settles.

        Raises:
            LoadError: an answer is not a 200.
        """
        requests = [sample.request for sample in self._samples]

        def run(size: int) -> None:
            batch = [requests[i % len(requests)] for i in range(size)]
            failed = next((outcome for outcome in self.pipeline.answer(batch) if outcome.status != 200), None)
            if failed is not None:
                raise LoadError(f"warm-up at batch {size} failed: {reason(failed, self.pipeline.last_failure)}")

        return warm_up(run, batch_sizes(self.config.batch_size), self.config.warmup_budget_s, time.monotonic)

    def golden_answers(self) -> dict[str, Any]:
        """The present answers to the samples, by file name, for `tsctl archive golden`.

        In place of `start`; the worker must not serve afterwards. Nothing is accelerated, because acceleration is
        tested against these answers.

        Raises:
            LoadError: a sample is not answered with 200, or there is none.
        """
        self.handler.load()
        answers = {}
        for name, request in read_requests(self.config.model_dir / "samples").items():
            [outcome] = self.pipeline.answer([request])
            if outcome.status != 200:
                why = reason(outcome, self.pipeline.last_failure)
                raise LoadError(f"sample {name}: answered {outcome.status}: {why}")
            answers[name] = json.loads(outcome.body)
        return answers

    # ---- while it serves -----------------------------------------------------------------------------------------

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome for each request, in order."""
        received: list[Request | open_inference.InferRows | Outcome] = [
            request
            if request.error is None and not request.wants_description and PROTOCOL_HEADER not in request.headers
            else self._receive(request)
            for request in requests
        ]
        items: list[Request] = []
        for entry in received:
            if isinstance(entry, Request):
                items.append(entry)
            elif isinstance(entry, open_inference.InferRows):
                items += entry.rows
        computed = self._compute(items)
        rest = iter(computed)
        outcomes = [
            next(rest)
            if isinstance(entry, Request)
            else self._fold(entry, list(islice(rest, len(entry.rows))))
            if isinstance(entry, open_inference.InferRows)
            else entry
            for entry in received
        ]
        for outcome in outcomes:
            headers = self._headers[outcome.cache]
            name = outcome.class_name
            outcome.headers = (*headers, (CLASS_HEADER, name)) if name else headers
        self.pipeline.count([*computed, *(entry for entry in received if isinstance(entry, Outcome))])
        if self.pipeline.is_broken:
            self._end_process()
        return outcomes

    def describe(self) -> dict[str, Any]:
        """The model, and the requests that it reads."""
        return {
            "model": self.config.model,
            "version": self.config.version,
            "handler": type(self.handler).__name__,
            "media_types": list(self.handler.media_types),
            "request_schema": self.handler.Request.model_json_schema(),
            "max_request_bytes": self.config.request_bytes,
            "device": str(self.handler.device),
        }

    def _compute(self, items: list[Request]) -> list[Outcome]:
        """One outcome for each item; rows of infer requests may be more than one batch."""
        size = self.config.batch_size
        if len(items) <= size:
            return self.pipeline.answer(items)
        parts = range(0, len(items), size)
        return [outcome for begin in parts for outcome in self.pipeline.answer(items[begin : begin + size])]

    def _receive(self, request: Request) -> Request | open_inference.InferRows | Outcome:
        """The request as it is to be computed, or the outcome of one that is not."""
        is_infer = request.headers.get(PROTOCOL_HEADER) == OPEN_INFERENCE
        error = request.error
        try:
            if error is None and request.wants_description:
                return Outcome(200, to_json(self.describe()))
            if error is None and is_infer:
                config = self.config
                return open_inference.read_infer(request, self._scalars, config.batch_size, config.request_bytes)
        except RequestError as raised:
            error = raised
        except Exception:
            logger.exception(
                "%s %s: reading request %s failed", self.config.model, self.config.version, request.request_id
            )
            error = ModelFailed("The handler failed while it read the request.")
        if error is None:
            return request
        refusal = open_inference.refusal if is_infer else problem
        return refusal(error, request.request_id, self.config.model, self.config.version)

    def _fold(self, infer: open_inference.InferRows, outcomes: list[Outcome]) -> Outcome:
        model, version = self.config.model, self.config.version
        try:
            return open_inference.fold(infer, outcomes, model, version)
        except Exception:
            logger.exception("%s %s: the answers are no tensors", model, version)
            error = ModelFailed("The model's answers cannot be written as tensors.")
            return open_inference.refusal(error, infer.request_id, model, version)

    def _end_process(self) -> None:
        """End this process once the answers are sent: a failed device works again only in a new one."""
        logger.critical("%s %s: the device failed, and this worker ends", self.config.model, self.config.version)
        self.handler.telemetry.flush()
        ending = threading.Timer(ENDING_S, os._exit, (1,))
        ending.daemon = True
        ending.start()

    # ---- parts of `start` ----------------------------------------------------------------------------------------

    def _accelerate(self) -> dict[str, str]:
        wanted = self.config.acceleration
        if wanted == Acceleration():
            return {}
        handler = self.handler
        if not isinstance(getattr(handler, "network", None), torch.nn.Module):
            raise LoadError("compile, dtype, quantize and channels_last change self.network, and load() set none")
        return accelerate(handler.network, wanted, handler.device, handler.is_fixed_shape)

    def _open_cache(self) -> ResponseCache | None:
        options, handler = self.config.cache, self.handler
        if options is None or not handler.is_deterministic:
            return None
        cache = open_cache(options, self.config.model_dir, self.config.tolerance, handler.telemetry.shared_cache)
        for sample in self._samples:
            try:
                request_key(cache, sample.request, handler.decode(sample.request.body, sample.request.media_type))
            except TypeError as error:
                raise LoadError(f"the cache cannot tell requests apart by what decode returns: {error}") from None
        return cache

    def _facts(self) -> dict[str, Any]:
        cached = "on" if self.handler.is_deterministic else "off, because answers differ each time"
        return {
            "device": str(self.handler.device),
            "threads": self.handler.threads,
            "metrics": "on" if self.handler.telemetry.is_on else "off",
            "cache": "off" if self.config.cache is None else cached,
        }


@contextmanager
def reported_load(model: str, version: str) -> Iterator[dict[str, Any]]:
    """Log one line on how the load in the block ended, with the facts that the block adds.

    Raises:
        LoadError: the block raised anything.
    """
    begin = time.monotonic()
    facts: dict[str, Any] = {}
    try:
        yield facts
    except Exception as error:
        why = f"{error}" if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
        report = LoadReport(model, version, os.getpid(), False, " ".join(why.split())[:2000])
        logger.warning("%s", report.line())
        raise LoadError(f"{model} {version} must not serve: {why}") from error
    facts = {"seconds": round(time.monotonic() - begin, 3), **facts}
    logger.warning("%s", LoadReport(model, version, os.getpid(), True, facts=facts).line())


def _configure(handler: ServingHandler, config: WorkerConfig) -> None:
    """Set the attributes that the author's methods read."""
    handler.model, handler.version = config.model, config.version
    handler.model_dir, handler.weights_file, handler.settings = config.model_dir, config.weights_file, config.settings
    handler.batch_size, handler.batch_tokens = config.batch_size, config.batch_tokens
    handler.device = torch.device(choose_device(config.gpu_id, torch.cuda.device_count()))
    handler.threads = threads_per_worker(config.threads, usable_cores(), config.workers)


def _check_package(model_dir: Path) -> None:
    """An archive runs its own `handlers`, or none: PYTHONPATH stands before the archive on a worker's path."""
    bundled = model_dir / "handlers"
    running = Path(__file__).resolve().parents[1]
    if bundled.is_dir() and bundled.resolve() != running:
        raise LoadError(f"the package 'handlers' comes from {running}, not from the archive: unset PYTHONPATH")
