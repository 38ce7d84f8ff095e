"""The life cycle that every handler shares, and the methods that the author of a model overrides.

Invariant: `initialize` either leaves a warm worker whose answers to the samples are right, or raises; `handle` returns
one answer per item.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from handlers.adapters.torchserve import wire
from handlers.cache.keys import KeyMaker, archive_digest
from handlers.cache.local import AnswerStore, ResponseCache
from handlers.contract import (
    CACHE_HEADER,
    CACHE_STATES,
    CLASS_HEADER,
    JSON,
    METRICS_FOLDER_VARIABLE,
    MODEL_VERSION_HEADER,
    OPEN_INFERENCE,
    PROTOCOL_HEADER,
    SHARED_CACHE_VARIABLE,
    LoadReport,
)
from handlers.device import choose_device, set_threads, threads_per_worker, usable_cores
from handlers.errors import LoadError, ModelFailed, NotImplementedHere, RequestError
from handlers.messages import (
    Incoming,
    Outgoing,
    problem,
    read_item,
    read_properties,
    request_id_of,
)
from handlers.pipeline.batch_sizes import batch_sizes
from handlers.pipeline.pipeline import RequestPath, request_key
from handlers.protocols import open_inference as oip
from handlers.schema import Schema, parse_json
from handlers.telemetry.metrics import Telemetry, telemetry
from handlers.weights import import_file, load_weights
from handlers.worker.accelerate import accelerate
from handlers.worker.config import Acceleration, Serving, model_and_version, read_serving
from handlers.worker.samples import read_requests, read_samples
from handlers.worker.self_test import prove, reason, refuse_halved
from handlers.worker.warmup import BatchTiming, warm_up

logger = logging.getLogger(__name__)

#: What a class may be called, where a header and the label of a metric can carry it.
LONGEST_CLASS = 64
_CLASS = re.compile(rf"[\w.:\-]{{1,{LONGEST_CLASS}}}", re.ASCII)
#: Seconds from the last answers to the end of a worker whose device failed.
ENDING_S = 0.5


class ServingHandler:
    """Base of all handlers.

    The author of a model names `Request` and overrides `preprocess` and `postprocess`, and `load` or `inference`
    where the defaults do not fit. After `load`, these are set: `device`, `settings` (from archive.yaml),
    `model_dir`, `model`, `version`, `batch_size`, and by the default `load`, `network`.
    """

    #: What a JSON body must look like; its errors answer 422.
    Request: type[BaseModel] = Schema
    #: Media types that `decode` understands; any other is answered 415.
    media_types: ClassVar[Sequence[str]] = (JSON,)
    #: Whether all items have one shape; False for text, whose network is compiled for any length.
    is_fixed_shape: ClassVar[bool] = True
    #: Whether equal requests have equal answers; False keeps them out of the cache.
    is_deterministic: ClassVar[bool] = True

    device: torch.device
    model_dir: Path
    model: str
    version: str
    batch_size: int
    batch_tokens: int
    threads: int
    settings: dict[str, Any]
    network: torch.nn.Module
    telemetry: Telemetry = Telemetry()

    # ---- for the author of a model -------------------------------------------------------------------------------

    def load(self) -> None:
        """Make the model ready in memory: `build(settings)` of the archive's model.py, filled with its weights.

        Raises:
            LoadError: model.py or the weights are missing, or do not fit each other.
        """
        network = import_file(self.model_dir / "model.py").build(self.settings)
        network.load_state_dict(load_weights(self.weights_file))
        self.network = network.to(self.device).eval()

    def decode(self, body: bytes, media_type: str) -> Any:
        """One item from its bytes, validated; what the cache tells requests apart by.

        Raises:
            RequestError: it cannot be decoded, or does not fit.
        """
        return parse_json(self.Request, body)

    def prepare(self, items: list[Any]) -> list[Any]:
        """For each decoded item what `preprocess` shall get: costly work, such as tokenising, on all items at once.

        A RequestError in the list refuses its item alone.
        """
        return items

    def preprocess(self, items: list[Any]) -> Any:
        """Model input for 1 to `batch_size` prepared items; row i belongs to items[i]."""
        raise NotImplementedError(f"{type(self).__name__} must define preprocess")

    def inference(self, inputs: Any) -> Any:
        """The model's output for what `preprocess` returned; runs in inference mode."""
        return self.network(inputs)

    def postprocess(self, outputs: Any) -> list[Any]:
        """One JSON-able answer per item, in the order of the items; tensors and arrays become lists."""
        raise NotImplementedError(f"{type(self).__name__} must define postprocess")

    def classify(self, answer: Any) -> str | None:
        """The class that an answer predicts, one of a few; None where there are no classes.

        The gateway counts it by version, so that a release whose predictions fall into other classes is noticed. A name
        has letters, digits and `_.:-`, LONGEST_CLASS at most; any other is not told. `answer` is what the client gets,
        read back from its JSON.
        """
        return None

    def warmup(self) -> list[BatchTiming]:
        """Run the samples through the whole path at batch 1, 2, 4 ... batch_size until the latency settles.

        Raises:
            LoadError: an answer is not a 200.
        """
        requests = [sample.request for sample in self._samples]

        def run(size: int) -> None:
            batch = [requests[i % len(requests)] for i in range(size)]
            failed = next((answer for answer in self.answer(batch) if answer.status != 200), None)
            if failed is not None:
                raise LoadError(f"warm-up at batch {size} failed: {reason(failed, self._path.last_failure)}")

        return warm_up(run, batch_sizes(self.batch_size), self._serving.warmup_budget_s, time.monotonic)

    # ---- what TorchServe calls -----------------------------------------------------------------------------------

    def initialize(self, context: Any) -> None:
        """Load, prove the golden answers and warm up; logs one line that says how it ended.

        Raises:
            LoadError: the worker must not serve.
        """
        begin = time.monotonic()
        try:
            self._configure(context)
            self._samples = read_samples(self.model_dir / "samples", self.model_dir / "golden.json")
            self.load()
            self._scalars = oip.scalar_fields(self.Request)
            accelerated = self._accelerate()
            prove(self._path, self._samples, self.batch_size, self._serving.tolerance)
            timings = self.warmup()
            refuse_halved(self._path)
            # from here on: what the samples took and came to is not what clients saw
            folder = os.environ.get(METRICS_FOLDER_VARIABLE)
            self.telemetry = telemetry(self.model, self.version, self._serving.metrics, folder)
            cache = self._open_cache()
        except Exception as error:
            why = f"{error}" if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
            self._log_report(False, {}, " ".join(why.split())[:2000])
            raise LoadError(f"{self.model} {self.version} must not serve: {why}") from error
        self._path.open(cache, self.telemetry)
        is_own = type(self).handle is not ServingHandler.handle
        is_bulk = self._serving.wire == "bulk" and wire.install(self, None if is_own else self.handle_items)
        gc.collect()
        gc.freeze()  # what is alive now stays: the collector need not walk it between requests
        seconds = round(time.monotonic() - begin, 3)
        self._log_report(True, {"seconds": seconds, **self._report(timings, accelerated, is_bulk)})

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """The body of each item's answer; statuses and headers go into `context`.

        Where the wire is `bulk`, and no subclass has a `handle` of its own, `handle_items` is called in its place.
        """
        batch = []
        for index, fields in enumerate(data):
            types, headers = read_properties(context.get_all_request_header(index))
            batch.append(wire.Item(context.get_request_id(index), headers, fields, types))
        answers = self.handle_items(batch)
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, index)
            context.set_response_content_type(index, answer.media_type)
            for name, value in answer.headers:
                context.set_response_header(index, name, value)
        return [answer.body for answer in answers]

    def handle_items(self, batch: Sequence[wire.Item]) -> list[Outgoing]:
        """One answer per item of a batch, in order."""
        received = [self._receive(item) for item in batch]
        requests: list[Incoming] = []
        for item in received:
            if isinstance(item, Incoming):
                requests.append(item)
            elif isinstance(item, oip.Infer):
                requests += item.rows
        computed = self._answer_all(requests)
        rest = iter(computed)
        answers = [
            next(rest)
            if isinstance(item, Incoming)
            else self._fold(item, list(islice(rest, len(item.rows))))
            if isinstance(item, oip.Infer)
            else item
            for item in received
        ]
        for answer in answers:
            answer.headers = self._headers[answer.cache]
        if self._has_classes:
            self._tell_classes(received, answers)
        self._path.tell([*computed, *(item for item in received if isinstance(item, Outgoing))])
        if self._path.is_broken:
            self._end_worker()
        return answers

    def golden_answers(self, context: Any) -> dict[str, Any]:
        """The answers to the samples as they are now, by file name: what `tsctl archive golden` keeps.

        For a handler that was not initialized; it must not serve afterwards. Nothing is accelerated, because these
        answers are what acceleration is held to.

        Raises:
            LoadError: a sample is not answered with 200, or there is none.
        """
        self._configure(context)
        self.load()
        answers = {}
        for name, request in read_requests(self.model_dir / "samples"):
            [answer] = self.answer([request])
            if answer.status != 200:
                raise LoadError(f"sample {name}: answered {answer.status}: {reason(answer, self._path.last_failure)}")
            answers[name] = json.loads(answer.body)
        return answers

    def answer(self, requests: Sequence[Incoming]) -> list[Outgoing]:
        """One outcome for each request, in order; never raises for what a request holds or the model does."""
        return self._path.answer(requests)

    def _answer_all(self, requests: list[Incoming]) -> list[Outgoing]:
        """As `answer`, for more requests than fit a batch as well: those of the Open Inference Protocol bring rows."""
        if len(requests) <= self.batch_size:
            return self.answer(requests)
        parts = range(0, len(requests), self.batch_size)
        return [one for begin in parts for one in self.answer(requests[begin : begin + self.batch_size])]

    def describe(self) -> dict[str, Any]:
        """What this worker serves, for TorchServe's `describe` with `customized=true`."""
        return {
            "model": self.model,
            "version": self.version,
            "handler": type(self).__name__,
            "media_types": list(self.media_types),
            "request_schema": self.Request.model_json_schema(),
            "max_request_bytes": self._serving.request_bytes,
            "device": str(self.device),
        }

    def _receive(self, item: wire.Item) -> Incoming | oip.Infer | Outgoing:
        """The request that is to be computed, or the answer to one that is not."""
        headers = {name.lower(): value for name, value in item.headers.items()}
        try:
            return self._read(item, headers)
        except RequestError as error:
            told = error
        except Exception:
            logger.exception("%s %s: reading request %s failed", self.model, self.version, item.request_id)
            told = ModelFailed("The handler failed while it read the request.")
        refusal = oip.refusal if headers.get(PROTOCOL_HEADER) == OPEN_INFERENCE else problem
        return refusal(told, request_id_of(headers, item.request_id), self.model, self.version)

    def _read(self, item: wire.Item, headers: dict[str, str]) -> Incoming | oip.Infer | Outgoing:
        if headers.get("explain") == "True":
            raise NotImplementedHere("This model offers predictions, not explanations.")
        # TorchServe's own describe request carries no field; a client may send the header as well
        if not item.fields and headers.get("describe") == "True":
            return Outgoing(200, to_json(self.describe()))
        request = read_item(item.fields, item.types, headers, item.request_id, item.is_ambiguous)
        if headers.get(PROTOCOL_HEADER) == OPEN_INFERENCE:
            return oip.read_infer(request, self._scalars, self.batch_size, self._serving.request_bytes)
        return request

    def _fold(self, infer: oip.Infer, answers: list[Outgoing]) -> Outgoing:
        try:
            return oip.fold(infer, answers, self.model, self.version)
        except Exception:
            logger.exception("%s %s: the answers are no tensors", self.model, self.version)
            failed = ModelFailed("The model's answers cannot be written as tensors.")
            return oip.refusal(failed, infer.request_id, self.model, self.version)

    def _tell_classes(self, received: Sequence[object], answers: Sequence[Outgoing]) -> None:
        """Every answer to a plain request has its class in a header; from the cache or not, by its bytes."""
        for item, answer in zip(received, answers, strict=True):
            if answer.status != 200 or not isinstance(item, Incoming):
                continue
            try:
                name = self.classify(from_json(answer.body))
                if name is not None and _CLASS.fullmatch(name):
                    answer.headers += ((CLASS_HEADER, name),)
            except Exception:  # whatever an author's own method does: the answer is right all the same
                logger.exception("%s %s: classify failed", self.model, self.version)

    def _end_worker(self) -> None:
        """End this process once the answers are sent: a failed device works again only in a new one."""
        logger.critical("%s %s: the device failed, and this worker ends", self.model, self.version)
        self.telemetry.flush()
        ending = threading.Timer(ENDING_S, os._exit, (1,))
        ending.daemon = True
        ending.start()

    # ---- starting up ---------------------------------------------------------------------------------------------

    def _configure(self, context: Any) -> None:
        self.model, self.version = model_and_version(context)
        self._adopt(read_serving(context))
        _refuse_foreign_package(self.model_dir)
        # This worker reads raw bodies, whatever decode_input_request says for the node: malformed JSON must reach
        # `decode`, and stock archives on the same node keep TorchServe's own decoding.
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        set_threads(self.threads)
        pads = self._serving.acceleration.compile and self.is_fixed_shape
        self._path = RequestPath(self, self._serving, pads)
        version = (MODEL_VERSION_HEADER, self.version)
        self._has_classes = type(self).classify is not ServingHandler.classify
        self._headers = {"": (version,), **{state: (version, (CACHE_HEADER, state)) for state in CACHE_STATES}}

    def _adopt(self, serving: Serving) -> None:
        self._serving = serving
        self.model_dir, self.weights_file, self.settings = serving.model_dir, serving.weights_file, serving.settings
        self.batch_size, self.batch_tokens = serving.batch_size, serving.batch_tokens
        self.device = torch.device(choose_device(serving.gpu_id, torch.cuda.device_count()))
        self.threads = threads_per_worker(serving.threads, usable_cores(), serving.workers)

    def _accelerate(self) -> dict[str, str]:
        wanted = self._serving.acceleration
        if wanted == Acceleration():
            return {}
        if not isinstance(getattr(self, "network", None), torch.nn.Module):
            raise LoadError("compile, dtype, quantize and channels_last change self.network, and load() set none")
        return accelerate(self.network, wanted, self.device, self.is_fixed_shape)

    def _open_cache(self) -> ResponseCache | None:
        options = self._serving.cache
        if options is None or not self.is_deterministic:
            return None
        shared = None
        if options.shared:
            from handlers.cache import redis as shared_cache  # the package redis is needed only here

            address = os.environ.get(SHARED_CACHE_VARIABLE) or options.shared
            shared = shared_cache.connect(address, options.ttl_s, self.telemetry.shared_cache)
        cache = ResponseCache(
            key=KeyMaker(archive_digest(self.model_dir)),
            store=AnswerStore(int(options.max_mb * (1 << 20)), time.time),
            shared=shared,
            ttl_s=options.ttl_s,
            check=options.check,
            tolerance=self._serving.tolerance,
            clock=time.time,
            chance=random.Random().random,  # noqa: S311 - decides which hits are checked, nothing secret
        )
        for sample in self._samples:
            try:
                request_key(cache, sample.request, self.decode(sample.request.body, sample.request.media_type))
            except TypeError as error:
                raise LoadError(f"the cache cannot tell requests apart by what decode returns: {error}") from None
        return cache

    def _report(self, timings: list[BatchTiming], accelerated: dict[str, str], is_bulk: bool) -> dict[str, Any]:
        for timing in timings:
            self.telemetry.warmup(timing.batch, timing.cold_s, timing.warm_s)
        options = self._serving.cache
        cache = "off" if options is None else "on" if self.is_deterministic else "off, because answers differ each time"
        return {
            "device": str(self.device),
            "threads": self.threads,
            "wire": "bulk" if is_bulk else "stock",
            "metrics": "on" if self.telemetry.is_on else "off",
            "cache": cache,
            **accelerated,
            "warmup": [
                {
                    "batch": timing.batch,
                    "cold_ms": round(timing.cold_s * 1000, 3),
                    "warm_ms": round(timing.warm_s * 1000, 3),
                    "runs": timing.runs,
                    "settled": timing.is_settled,
                }
                for timing in timings
            ],
        }

    def _log_report(self, is_ready: bool, facts: dict[str, Any], reason: str = "") -> None:
        model, version = getattr(self, "model", ""), getattr(self, "version", "")
        logger.warning("%s", LoadReport(model, version, os.getpid(), is_ready, reason, facts).line())


def _refuse_foreign_package(model_dir: Path) -> None:
    """An archive runs its own `handlers`, or none: PYTHONPATH stands before the archive on a worker's path."""
    bundled = model_dir / "handlers"
    running = Path(__file__).resolve().parent
    if bundled.is_dir() and bundled.resolve() != running:
        raise LoadError(f"the package 'handlers' comes from {running}, not from the archive: unset PYTHONPATH")
