"""A worker that serves, whatever server holds it: one outcome for each request.

Invariant: `answer` returns one outcome per request, in order, and never raises for a client's mistake or a model's
failure.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from handlers.base import ServingHandler
from handlers.cache.local import ResponseCache
from handlers.contract import (
    CACHE_HEADER,
    CACHE_STATES,
    CHECK_HEADER,
    CHECK_HEALTH,
    CLASS_HEADER,
    MODEL_VERSION_HEADER,
    PROTOCOL_HEADER,
    threads_per_worker,
    usable_cores,
)
from handlers.device import choose_device, set_threads
from handlers.errors import RequestError
from handlers.log_lines import about
from handlers.messages import Outcome, Request, problem
from handlers.pipeline.class_names import ClassNames
from handlers.pipeline.pipeline import Pipeline
from handlers.protocols.encoding import ENCODING_HEADER
from handlers.records.recorder import Recorder
from handlers.telemetry.tracer import Tracer
from handlers.telemetry.traces import Batch, parents, traced
from handlers.worker.config import WorkerConfig, check_package
from handlers.worker.protocols import Protocols

logger = logging.getLogger(__name__)

#: Padded tokens that go through a text model at once before it is known how many are fastest.
BATCH_TOKENS = 256
#: Seconds from the last answers to the end of a worker whose device failed.
ENDING_S = 0.5
#: A health check is computed where the last answer of the model is older than this many times a check's own time, so
#: that checks take a tenth of an idle worker's time at most, and none of a busy one's.
CHECK_REST = 10


class Worker:
    """One author's handler, with everything that it needs to answer requests.

    Args:
        handler: a new object of the author's class; its attributes are set here.

    Raises:
        LoadError: another package `handlers` runs than the archive's.
    """

    def __init__(self, handler: ServingHandler, config: WorkerConfig) -> None:
        check_package(config.model_dir)
        self.handler = handler
        self.config = config
        _configure(handler, config)
        set_threads(handler.threads)
        pads = config.acceleration.compile and handler.is_fixed_shape
        self.pipeline = Pipeline(
            handler, config.request_bytes, config.response_timeout_s / 2, pads, config.answer_bytes
        )
        version = (MODEL_VERSION_HEADER, config.version)
        self._headers = {"": (version,), **{state: (version, (CACHE_HEADER, state)) for state in CACHE_STATES}}
        self.protocols = Protocols(handler, config)
        self._class_names = ClassNames()
        self._turn = threading.RLock()  # one thread computes at a time
        self._tracer: Tracer | None = None
        self._check_s, self._answered_at = 0.0, -math.inf  # the last computed check's time; the model's last answer

    def open(
        self,
        cache: ResponseCache | None,
        answers: Sequence[Any] = (),
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """From now on requests come from clients; the handler's model is loaded, and its metrics are open.

        Args:
            answers: the golden ones, which show what the model gives.
        """
        self.protocols.open(answers)
        self._tracer = tracer
        self.pipeline.open(cache, self.handler.telemetry, recorder)

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome for each request, in order."""
        with self._turn, about(requests):
            for request in requests:
                if CHECK_HEADER in request.headers:
                    return self._answer_with_checks(requests)
            return self._answer(requests)

    def answer_again(self, requests: Sequence[Request], items: Sequence[Any]) -> list[Outcome]:
        """The model's answers to decoded items that were answered before, for any thread; nothing is counted."""
        with self._turn, about(requests):
            return self.pipeline.answer_again(requests, items)

    def _answer_with_checks(self, requests: Sequence[Request]) -> list[Outcome]:
        """As `answer`, where some requests come from no client; they come last, and no metric counts them."""
        clients = [request for request in requests if CHECK_HEADER not in request.headers]
        outcomes = iter(self._answer(clients) if clients else ())
        begin = time.monotonic()
        is_fresh = begin - self._answered_at < CHECK_REST * self._check_s
        asked = [
            request
            for request in requests
            if CHECK_HEADER in request.headers and not (is_fresh and request.headers[CHECK_HEADER] == CHECK_HEALTH)
        ]
        with self.pipeline.uncounted():
            computed = self._answer(asked) if asked else []
        if asked:
            self._check_s = time.monotonic() - begin
        waiting = {id(request): outcome for request, outcome in zip(asked, computed, strict=True)}
        known = Outcome(200, b'{"healthy":true}', headers=self._headers[""])
        return [
            waiting.get(id(request), known) if CHECK_HEADER in request.headers else next(outcomes)
            for request in requests
        ]

    def _answer(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._tracer is None or (of_callers := parents(requests)) is None:
            return self._outcomes(requests)
        batch, begin = Batch(len(requests), time.time_ns(), time.perf_counter()), time.monotonic()
        with self.pipeline.watched(batch.stages):
            outcomes = self._outcomes(requests)
        batch.end = time.perf_counter()
        batch.traced = [
            traced(requests[place], parent, outcomes[place], self.pipeline.waited_s(requests[place], begin))
            for place, parent in of_callers.items()
        ]
        self._tracer.take(batch)
        return outcomes

    def _outcomes(self, requests: Sequence[Request]) -> list[Outcome]:
        received = [
            request
            if request.error is None
            and not request.wants_description
            and PROTOCOL_HEADER not in request.headers
            and ENCODING_HEADER not in request.headers
            else self.protocols.receive(request)
            for request in requests
        ]
        items: list[Request] = []
        for entry in received:
            if isinstance(entry, Request):
                items.append(entry)
            elif not isinstance(entry, Outcome):
                items += entry.rows
        computed = self._compute(items)
        if any(outcome.status == 200 and outcome.cache != "hit" for outcome in computed):
            self._answered_at = time.monotonic()
        rest = iter(computed)
        outcomes = [
            next(rest)
            if isinstance(entry, Request)
            else entry
            if isinstance(entry, Outcome)
            else self.protocols.answer(entry, list(islice(rest, len(entry.rows))))
            for entry in received
        ]
        for outcome in outcomes:
            headers = self._headers[outcome.cache]
            name = outcome.class_name
            if name:
                headers = (*headers, (CLASS_HEADER, self._class_names[name]))
            outcome.headers = (*outcome.headers, *headers) if outcome.headers else headers
        self.pipeline.count(computed + [entry for entry in received if isinstance(entry, Outcome)])
        if self.pipeline.is_broken:
            self._end_process()
        return outcomes

    def refuse(self, request: Request, error: RequestError) -> Outcome:
        """The outcome of a request whose answer the adapter cannot send."""
        outcome = problem(error, request.request_id, self.config.model, self.config.version)
        outcome.headers = self._headers[""]
        return outcome

    def describe(self) -> dict[str, Any]:
        """The model, and the requests that it reads."""
        return self.protocols.describe()

    def _compute(self, items: list[Request]) -> list[Outcome]:
        """One outcome for each item; rows of infer requests may be more than one batch."""
        size = self.config.batch_size
        if len(items) <= size:
            return self.pipeline.answer(items)
        parts = range(0, len(items), size)
        return [outcome for begin in parts for outcome in self.pipeline.answer(items[begin : begin + size])]

    def _end_process(self) -> None:
        """End this process once the answers are sent: a failed device works again only in a new one."""
        logger.critical("%s %s: the device failed, and this worker ends", self.config.model, self.config.version)
        self.pipeline.close()
        if self._tracer is not None:
            self._tracer.close()
        ending = threading.Timer(ENDING_S, os._exit, (1,))
        ending.daemon = True
        ending.start()


def _configure(handler: ServingHandler, config: WorkerConfig) -> None:
    """Set the attributes that the author's methods read."""
    handler.model, handler.version = config.model, config.version
    handler.model_dir, handler.weights_file, handler.settings = config.model_dir, config.weights_file, config.settings
    handler.batch_size, handler.batch_tokens = config.batch_size, config.batch_tokens or BATCH_TOKENS
    handler.device = torch.device(choose_device(config.gpu_id, torch.cuda.device_count()))
    handler.threads = threads_per_worker(config.threads, usable_cores(), config.workers)
