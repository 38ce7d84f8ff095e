"""From a batch of requests to one outcome for each: decode, cache, model, encode.

Invariant: `answer` returns exactly one outcome per request, in order, and never raises for a client's mistake or a
model's failure.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic_core import to_json

from handlers.base import ServingHandler
from handlers.cache.local import ResponseCache
from handlers.contract import CLASS_NAME, JSON
from handlers.device import finish, is_fatal, is_out_of_memory
from handlers.errors import ModelFailed, RequestError, UndecodableBody, UnsupportedMedia
from handlers.log_lines import about
from handlers.messages import Outcome, Request, problem
from handlers.pipeline.batch_sizes import batch_sizes, padded_size
from handlers.pipeline.cached import CachedAnswers
from handlers.pipeline.deadline import Lateness
from handlers.pipeline.isolation import Broken, GaveUp, Isolation, Quarantine
from handlers.protocols import media_types, plain
from handlers.records.record import Batch
from handlers.records.recorder import Recorder
from handlers.telemetry.metrics import Telemetry
from handlers.telemetry.traces import Stage
from handlers.tracebacks import where

logger = logging.getLogger(__name__)

#: How long, in seconds, and how many items that made the model fail are refused without being tried.
QUARANTINE_S = 60
QUARANTINED = 1024


class Pipeline:
    """The way of every request through one worker.

    Args:
        handler: the author's object, with its model and version set.
        request_bytes: the longest body that is decoded.
        budget_s: seconds in which a failing batch may be halved.
        pads: whether batches are filled up to a warmed size, because the device runs compiled graphs.
        answer_bytes: the longest answer that can be sent.
    """

    def __init__(
        self, handler: ServingHandler, request_bytes: int, budget_s: float, pads: bool, answer_bytes: float = math.inf
    ) -> None:
        self._handler = handler
        self._name = f"{handler.model} {handler.version}"
        self._request_bytes = request_bytes
        self._answer_bytes = answer_bytes
        self._has_classes = type(handler).classify is not ServingHandler.classify
        self._telemetry = Telemetry()
        self._sizes = batch_sizes(handler.batch_size) if pads else []
        self._times: dict[str, float] = {}
        self._cache: CachedAnswers | None = None
        self._recorder: Recorder | None = None
        self._stages: list[Stage] | None = None  # of a batch with traced requests
        self._quarantine = Quarantine(QUARANTINE_S, QUARANTINED, time.monotonic)
        self._preparing, self._running = (
            Isolation(run, is_out_of_memory, is_fatal, budget_s, time.monotonic, self._count_split)
            for run in (self._prepare, self._run)
        )
        self._lateness = Lateness(time.monotonic(), time.time())
        self.last_failure = ""  # the last error of the model, and its line; for logs and load reports, not for clients

    @property
    def is_broken(self) -> bool:
        """Whether the device has failed, so that this process can answer nothing any more."""
        return self._running.is_broken or self._preparing.is_broken

    @property
    def last_split(self) -> str:
        """Why a batch was last halved; empty where none was."""
        return self._running.last_split or self._preparing.last_split

    def open(self, cache: ResponseCache | None, telemetry: Telemetry, recorder: Recorder | None = None) -> None:
        """From now on requests come from clients: the cache may answer them; they are counted, and recorded."""
        self._cache = None if cache is None else CachedAnswers(cache, self._handler.model, self._handler.version)
        self._recorder = recorder
        self._telemetry = telemetry
        self._times.clear()
        self._lateness = Lateness(time.monotonic(), time.time())

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """In the block nothing is counted or recorded, and the cache neither answers nor keeps anything."""
        before = self._telemetry, self._cache, self._recorder, self._times, self._handler.telemetry
        self._telemetry, self._cache, self._recorder, self._times = Telemetry(), None, None, {}
        self._handler.telemetry = Telemetry()
        try:
            yield
        finally:
            self._telemetry, self._cache, self._recorder, self._times, self._handler.telemetry = before

    @contextmanager
    def watched(self, stages: list[Stage]) -> Iterator[None]:
        """In the block, each run of a stage is added to the list."""
        self._stages = stages
        try:
            yield
        finally:
            self._stages = None

    def waited_s(self, request: Request, begin: float) -> float:
        """Seconds that the request had waited when its batch began, a moment of `time.monotonic`."""
        return self._lateness.waited_s(request.headers, begin)

    def close(self) -> None:
        """Write what metrics and records hold: the process ends soon."""
        self._handler.telemetry.flush()
        if self._recorder is not None:
            self._recorder.close()

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome for each request, in order."""
        begin = time.monotonic()
        self._lateness.begin(begin)
        outcomes: list[Outcome | None] = [None] * len(requests)
        items: list[Any] = []
        indices: list[int] = []
        with self._timed("decode"):
            for index, request in enumerate(requests):
                try:
                    items.append(self._decode(request))
                    indices.append(index)
                except RequestError as error:
                    outcomes[index] = self._problem(error, request)
        decoded = [requests[index] for index in indices] if len(indices) < len(requests) else requests
        answers = (
            self._compute(decoded, items)
            if self._cache is None
            else self._cache.answer(decoded, items, self._compute, self._telemetry)
        )
        for index, outcome in zip(indices, answers, strict=True):
            outcomes[index] = outcome
        end = time.monotonic()
        self._lateness.end(end, any(outcome.status == 200 for outcome in answers))
        answered = [outcome for outcome in outcomes if outcome is not None]
        if self._recorder is not None and (wanted := self._recorder.wanted(requests)):
            batch = Batch(time.time(), end - begin, len(requests), dict(self._times))
            self._recorder.take(wanted, requests, answered, indices, items, batch)
        return answered

    def answer_again(self, requests: Sequence[Request], items: Sequence[Any]) -> list[Outcome]:
        """The model's answers to decoded items in one batch: no cache answers, and nothing is counted or recorded."""
        with self.uncounted():
            return self._compute(requests, list(items))

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Count the outcomes of one batch in the metrics."""
        if not self._telemetry.is_on:
            self._times = {}
            return
        failed = [outcome.error.kind for outcome in outcomes if outcome.error is not None]
        counts = {"ok": len(outcomes) - len(failed)}
        if failed:
            counts |= Counter(failed)
        self._telemetry.batch(len(outcomes), counts, self._times)
        self._times = {}

    # ---- decode --------------------------------------------------------------------------------------------------

    def _decode(self, request: Request) -> Any:
        if request.headers:
            self._lateness.check(request.headers)
        if request.row is None:
            plain.check_size(request.body, self._request_bytes)
            if not request.body:
                raise UndecodableBody("The request has no body.")
        handler = self._handler
        if request.row is None and request.media_type not in handler.media_types:
            request.media_type = media_types.media_type_of(request.media_type, request.body, handler.media_types)
        if self._quarantine and self._quarantine.holds(_digest(request)):
            raise ModelFailed(
                f"The same request made the model fail less than {QUARANTINE_S} s ago; it is not tried again so soon."
            )
        try:
            if request.row is not None:
                return handler.decode_row(request.row)
            if not media_types.is_read(request.media_type, handler.media_types):
                known = ", ".join(handler.media_types)
                raise UnsupportedMedia(f"A body of type {request.media_type} is not read here; send one of {known}.")
            return handler.decode(request.body, request.media_type)
        except (RequestError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # a panic of the parser's Rust code is no Exception
            with about([request]):
                logger.exception("%s: decoding request %s failed", self._name, request.request_id)
            raise ModelFailed("The handler failed while it decoded the request.") from None

    # ---- model ---------------------------------------------------------------------------------------------------

    def _compute(self, requests: Sequence[Request], items: list[Any]) -> list[Outcome]:
        """The model's answers to decoded items."""
        if not items:
            return []
        if self._telemetry.is_on:
            self._telemetry.computed(len(items))
        results = self._results(items)
        with self._timed("encode"):
            return [
                self._problem(self._failure(result, request), request)
                if isinstance(result, Exception)
                else self._encode(result, request)
                for result, request in zip(results, requests, strict=True)
            ]

    def _results(self, items: list[Any]) -> list[Any]:
        """An answer, or the exception that stands for it, for each item."""
        results = self._preparing.outcomes(items)
        ready = [i for i, prepared in enumerate(results) if not isinstance(prepared, Exception)]
        for i, answer in zip(ready, self._running.outcomes([results[i] for i in ready]), strict=True):
            results[i] = answer
        return results

    def _prepare(self, items: Sequence[Any]) -> list[Any]:
        with self._timed("preprocess"):
            prepared = list(self._handler.prepare(list(items)))
        if len(prepared) != len(items):
            raise ValueError(f"prepare returned {len(prepared)} items for {len(items)}")
        return prepared

    def _run(self, items: Sequence[Any]) -> list[Any]:
        handler, count = self._handler, len(items)
        padding = padded_size(count, self._sizes) - count
        with torch.inference_mode():
            with self._timed("preprocess"):
                inputs = handler.preprocess([*items, *[items[-1]] * padding])
            with self._timed("inference"):
                outputs = handler.inference(inputs)
                if self._telemetry.is_on:
                    finish(handler.device)  # or the GPU's time would be counted as postprocess's
            with self._timed("postprocess"):
                answers = list(handler.postprocess(outputs))
        if len(answers) != count + padding:
            raise ValueError(f"postprocess returned {len(answers)} answers for {count + padding} items")
        if self._sizes:
            self._telemetry.padding(count, padding)
        return answers[:count]

    def _failure(self, error: Exception, request: Request) -> RequestError:
        """The error that answers one item, after isolation has found that this item raises it."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, GaveUp):
            with about([request]):
                logger.error("%s: %s; the batch had failed by %s", self._name, error, self.last_split)
            return ModelFailed("Its batch failed, and there was no time to find out which item made it fail.")
        with about([request]):
            logger.error("%s: the model failed on an item", self._name, exc_info=error)
        self.last_failure = where(error)
        if isinstance(error, Broken):
            return ModelFailed("The worker's device failed; the worker starts anew.")
        self._quarantine.add(_digest(request))
        if is_out_of_memory(error):
            return ModelFailed("The item alone needs more memory than there is.")
        return ModelFailed("The model raised an error on this item; other items were not affected.")

    def _encode(self, answer: Any, request: Request) -> Outcome:
        try:
            body = plain.encode(answer)
        except Exception:  # an answer's own `tolist` may raise anything, and memory may end
            with about([request]):
                logger.exception("%s: an answer cannot be encoded", self._name)
            return self._problem(ModelFailed("The model's answer cannot be written as JSON."), request)
        if len(body) > self._answer_bytes:
            with about([request]):
                logger.error(
                    "%s: an answer has %d bytes, and a node takes %d", self._name, len(body), self._answer_bytes
                )
            self._quarantine.add(_digest(request))
            return self._problem(
                ModelFailed(f"The answer has {len(body)} bytes; at most {self._answer_bytes} can be sent."), request
            )
        if not plain.is_finite(body):
            return self._problem(ModelFailed("The model answered NaN or infinity."), request)
        name = self._class_of(answer, request) if self._has_classes else ""
        return Outcome(200, body, value=answer, class_name=name)

    def _class_of(self, answer: Any, request: Request) -> str:
        try:
            name = self._handler.classify(answer)
            return name if name is not None and CLASS_NAME.fullmatch(name) else ""
        except Exception:  # an author's own method may raise anything: the answer is right all the same
            with about([request]):
                logger.exception("%s: classify failed", self._name)
            return ""

    def _problem(self, error: RequestError, request: Request) -> Outcome:
        return problem(error, request.request_id, self._handler.model, self._handler.version)

    def _count_split(self, is_memory: bool) -> None:
        if is_memory:
            self._telemetry.memory_split()
        else:
            self._telemetry.bisection()

    def _timed(self, stage: str) -> _Timed:
        return _Timed(self._times, self._stages, stage)


class _Timed:
    """Adds the time of a block to that of its stage; a generator in its place would take twice as long."""

    __slots__ = ("_begin", "_stage", "_stages", "_times")

    def __init__(self, times: dict[str, float], stages: list[Stage] | None, stage: str) -> None:
        self._times, self._stages, self._stage = times, stages, stage

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        end, times, stage = time.perf_counter(), self._times, self._stage
        times[stage] = times.get(stage, 0.0) + end - self._begin
        if self._stages is not None:
            self._stages.append(Stage(stage, self._begin, end))


def _digest(request: Request) -> bytes:
    if request.row is not None:  # of the same item as a body
        return hashlib.sha256(JSON.encode() + b"\0" + to_json(request.row, bytes_mode="base64")).digest()
    return hashlib.sha256(request.media_type.encode() + b"\0" + request.body).digest()
