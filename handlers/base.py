"""The life cycle and request path that every handler shares: one outcome per item, whatever happens.

Invariant: `handle` returns exactly one answer per item, in order, and never raises for what a client sent or a
model did; `initialize` either leaves a warm worker whose answers to the samples are right, or raises.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from pydantic_core import to_json

from handlers import wire
from handlers.device import choose_device, is_fatal, is_out_of_memory, set_threads, threads_per_worker, usable_cores
from handlers.errors import (
    DeadlinePassed,
    LoadError,
    ModelFailed,
    NotImplementedHere,
    PayloadTooLarge,
    RequestError,
    UndecodableBody,
    UnreadableHeader,
    UnsupportedMedia,
)
from handlers.golden import Tolerance, difference
from handlers.isolation import Broken, GaveUp, Isolation, Quarantine
from handlers.items import JSON, Incoming, Outgoing, problem, read_item, request_id_of, sniff
from handlers.samples import Sample, read_requests, read_samples
from handlers.schema import Schema, finite_json, parse_json
from handlers.warmup import BatchTiming, batch_sizes, warm_up
from handlers.weights import import_file, load_weights

logger = logging.getLogger(__name__)

#: Begins the one log line in which a worker says how its load ended; tsctl reads it back from the node's log.
LOAD_MARKER = "[TSCTL LOAD]"
#: Until when a client waits: milliseconds since 1970, by the clock of whoever sets it.
DEADLINE_HEADER = "x-request-deadline-ms"
LONGEST_MOMENT = 15
#: How long, in seconds, and how many items that made the model fail are not tried again.
QUARANTINE_S = 60
QUARANTINED = 1024
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

    device: torch.device
    model_dir: Path
    model: str
    version: str
    batch_size: int
    settings: dict[str, Any]
    network: torch.nn.Module
    _last_failure = ""  # what the model raised last, and where; for whoever runs the node, never for a client

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
        """One item from its bytes; the result is one entry of `preprocess`'s list.

        Raises:
            RequestError: it cannot be decoded, or does not fit.
        """
        return parse_json(self.Request, body)

    def preprocess(self, items: list[Any]) -> Any:
        """Model input for 1 to `batch_size` decoded items; row i belongs to items[i]."""
        raise NotImplementedError(f"{type(self).__name__} must define preprocess")

    def inference(self, inputs: Any) -> Any:
        """The model's output for what `preprocess` returned; runs in inference mode."""
        return self.network(inputs)

    def postprocess(self, outputs: Any) -> list[Any]:
        """One JSON-able answer per item, in the order of the items; tensors and arrays become lists."""
        raise NotImplementedError(f"{type(self).__name__} must define postprocess")

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
                raise LoadError(f"warm-up at batch {size} failed: {self._reason(failed)}")

        return warm_up(run, batch_sizes(self.batch_size), self._warmup_budget_s, time.monotonic)

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
            self._prove()
            timings = self.warmup()
            self._refuse_halved()
        except Exception as error:
            reason = f"{error}" if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
            self._say({"outcome": "refused", "reason": " ".join(reason.split())[:2000]})
            raise LoadError(f"{self.model} {self.version} must not serve: {reason}") from error
        self._is_bulk = self._wants_bulk and wire.install()
        gc.collect()
        gc.freeze()  # what is alive now stays: the collector need not walk it between requests
        self._say({"outcome": "ready", "seconds": round(time.monotonic() - begin, 3), **self._report(timings)})

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """The body of each item's answer; statuses and headers go into `context`."""
        answers = self._answer_all(data, context)
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, index)
            context.set_response_content_type(index, answer.media_type)
            context.set_response_header(index, "x-model-version", self.version)
        if self._isolation.is_broken:
            self._end_worker()
        return [answer.body for answer in answers]

    def golden_answers(self, context: Any) -> dict[str, Any]:
        """The answers to the samples as they are now, by file name: what `tsctl archive golden` keeps.

        For a handler that was not initialized; it must not serve afterwards.

        Raises:
            LoadError: a sample is not answered with 200, or there is none.
        """
        self._configure(context)
        self.load()
        answers = {}
        for name, request in read_requests(self.model_dir / "samples"):
            [answer] = self.answer([request])
            if answer.status != 200:
                raise LoadError(f"sample {name}: answered {answer.status}: {self._reason(answer)}")
            answers[name] = json.loads(answer.body)
        return answers

    # ---- the request path ----------------------------------------------------------------------------------------

    def answer(self, requests: Sequence[Incoming]) -> list[Outgoing]:
        """One outcome for each request, in order; never raises for what a request holds or the model does."""
        outcomes: list[Outgoing | None] = [None] * len(requests)
        items: list[Any] = []
        indices: list[int] = []
        for index, request in enumerate(requests):
            try:
                items.append(self._decode(request))
                indices.append(index)
            except RequestError as error:
                outcomes[index] = self._problem(error, request)
        for index, result in zip(indices, self._isolation.outcomes(items), strict=True):
            request = requests[index]
            if isinstance(result, Exception):
                outcomes[index] = self._problem(self._failure(result, request), request)
            else:
                outcomes[index] = self._encode(result, request)
        return [outcome for outcome in outcomes if outcome is not None]

    def describe(self) -> dict[str, Any]:
        """What this worker serves, for TorchServe's `describe` with `customized=true`."""
        return {
            "model": self.model,
            "version": self.version,
            "handler": type(self).__name__,
            "media_types": list(self.media_types),
            "request_schema": self.Request.model_json_schema(),
            "max_request_bytes": self._max_request_bytes,
            "device": str(self.device),
        }

    def _answer_all(self, data: list[dict[str, Any]], context: Any) -> list[Outgoing]:
        received: list[Incoming | Outgoing] = []
        for index, fields in enumerate(data):
            properties = context.get_all_request_header(index)
            server_id = context.get_request_id(index)
            try:
                if properties.get("explain") == "True":
                    raise NotImplementedHere("This model offers predictions, not explanations.")
                # TorchServe's own describe request carries no field; a client may send the header as well
                if properties.get("describe") == "True" and not fields:
                    received.append(Outgoing(200, to_json(self.describe())))
                else:
                    received.append(read_item(fields, properties, server_id))
            except RequestError as error:
                request_id = request_id_of(properties, server_id)
                received.append(problem(error, request_id, self.model, self.version))
        answers = iter(self.answer([item for item in received if isinstance(item, Incoming)]))
        return [next(answers) if isinstance(item, Incoming) else item for item in received]

    def _decode(self, request: Incoming) -> Any:
        self._refuse_late(request)
        if len(request.body) > self._max_request_bytes:
            raise PayloadTooLarge(
                f"The body has {len(request.body)} bytes; at most {self._max_request_bytes} may come."
            )
        if not request.body:
            raise UndecodableBody("The request has no body.")
        media_type = request.media_type or sniff(request.body)
        if self._quarantine and self._quarantine.holds(_digest(request)):
            raise ModelFailed(
                f"The same request made the model fail less than {QUARANTINE_S} s ago; it is not tried again so soon."
            )
        if media_type not in self.media_types:
            known = ", ".join(self.media_types)
            raise UnsupportedMedia(f"Content-Type {media_type} is not read here; send one of {known}.")
        try:
            return self.decode(request.body, media_type)
        except RequestError:
            raise
        except Exception:
            logger.exception("%s %s: decoding request %s failed", self.model, self.version, request.request_id)
            raise ModelFailed("The handler failed while it decoded the request.") from None

    def _failure(self, error: Exception, request: Incoming) -> RequestError:
        """What the client of an item is told whose batch raised this, once the item stood alone."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, GaveUp):
            logger.error(
                "%s %s: %s; the batch had failed by %s", self.model, self.version, error, self._isolation.last_split
            )
            return ModelFailed("Its batch failed, and there was no time to find out which item made it fail.")
        logger.error("%s %s: the model failed on an item", self.model, self.version, exc_info=error)
        self._last_failure = _where(error)
        if isinstance(error, Broken):
            return ModelFailed("The worker's device failed; the worker starts anew.")
        if is_out_of_memory(error):
            return ModelFailed("The item alone needs more memory than there is.")
        self._quarantine.add(_digest(request))
        return ModelFailed("The model raised an error on this item; other items were not affected.")

    def _run(self, items: Sequence[Any]) -> list[Any]:
        with torch.inference_mode():
            answers = list(self.postprocess(self.inference(self.preprocess(list(items)))))
        if len(answers) != len(items):
            raise ValueError(f"postprocess returned {len(answers)} answers for {len(items)} items")
        return answers

    def _refuse_late(self, request: Incoming) -> None:
        """Nobody waits for an answer after its deadline, so nothing is computed for it."""
        sent = request.headers.get(DEADLINE_HEADER)
        if sent is None:
            return
        if not (sent.isascii() and sent.isdigit()) or len(sent) > LONGEST_MOMENT:
            raise UnreadableHeader(f"{DEADLINE_HEADER} must be a moment in milliseconds since 1970, as a whole number.")
        if time.time() * 1000 >= int(sent):
            raise DeadlinePassed("The deadline had passed before the request was computed.")

    def _encode(self, answer: Any, request: Incoming) -> Outgoing:
        try:
            body = to_json(answer, fallback=_as_list, inf_nan_mode="constants")
        except ValueError:  # pydantic's serialisation error is one
            logger.exception("%s %s: an answer cannot be encoded", self.model, self.version)
            return self._problem(ModelFailed("The model's answer cannot be written as JSON."), request)
        if not finite_json(body):
            return self._problem(ModelFailed("The model answered NaN or infinity."), request)
        return Outgoing(200, body)

    def _problem(self, error: RequestError, request: Incoming) -> Outgoing:
        return problem(error, request.request_id, self.model, self.version)

    def _end_worker(self) -> None:
        """End this process once the answers are sent: a failed device works again only in a new one."""
        logger.critical("%s %s: the device failed, and this worker ends", self.model, self.version)
        ending = threading.Timer(ENDING_S, os._exit, (1,))
        ending.daemon = True
        ending.start()

    # ---- starting up ---------------------------------------------------------------------------------------------

    def _configure(self, context: Any) -> None:
        properties = context.system_properties
        manifest = context.manifest["model"]
        config = context.model_yaml_config
        self.model_dir = Path(properties["model_dir"])
        self.model = context.model_name if isinstance(context.model_name, str) else manifest["modelName"]
        self.version = manifest["modelVersion"]
        _refuse_foreign_package(self.model_dir)
        serving = config.get("serving")
        if serving is None:
            raise LoadError("model-config.yaml has no 'serving' section: build the archive with tsctl archive build")
        # This worker reads raw bodies, whatever decode_input_request says for the node: malformed JSON must reach
        # `decode`, and stock archives on the same node keep TorchServe's own decoding.
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        self.batch_size = properties.get("batch_size") or config.get("batchSize", 1)
        self.settings = serving.get("settings", {})
        self.weights_file = self.model_dir / manifest.get("serializedFile", "model.safetensors")
        self._max_request_bytes = serving["limits"]["request_bytes"]
        self._warmup_budget_s = serving["warmup"]["budget_s"]
        self._tolerance = Tolerance(**serving["tolerance"])
        self._isolation = Isolation(
            self._run, is_out_of_memory, is_fatal, config.get("responseTimeout", 60) / 2, time.monotonic
        )
        self._quarantine = Quarantine(QUARANTINE_S, QUARANTINED, time.monotonic)
        self._wants_bulk = serving.get("wire", "bulk") == "bulk"
        self.device = torch.device(choose_device(properties.get("gpu_id"), torch.cuda.device_count()))
        self.threads = threads_per_worker(serving.get("threads"), usable_cores(), config.get("maxWorkers", 1))
        set_threads(self.threads)

    def _prove(self) -> None:
        """Compare the answers to all samples, alone and as one batch, with the golden ones."""
        for size, how in ((1, "alone"), (self.batch_size, "in a batch")):
            for begin in range(0, len(self._samples), size):
                batch = self._samples[begin : begin + size]
                for sample, answer in zip(batch, self.answer([sample.request for sample in batch]), strict=True):
                    self._prove_one(sample, answer, how)

    def _prove_one(self, sample: Sample, answer: Outgoing, how: str) -> None:
        if answer.status != 200:
            raise LoadError(f"sample {sample.name}, {how}: answered {answer.status}: {self._reason(answer)}")
        found = difference(json.loads(answer.body), sample.golden, self._tolerance)
        if found:
            raise LoadError(f"sample {sample.name}, {how}, is not the golden answer: {found}")

    def _reason(self, answer: Outgoing) -> str:
        """Why a sample was not answered with 200, for whoever runs the node: what the model raised where it did."""
        detail: str = json.loads(answer.body)["detail"]
        return self._last_failure if answer.status == 500 and self._last_failure else detail

    def _refuse_halved(self) -> None:
        """Every answer was right, but a batch of samples failed as a whole and was answered in halves: no worker may
        serve that pays for each batch several times."""
        if self._isolation.last_split:
            reason = self._isolation.last_split
            raise LoadError(f"a batch of samples fails, though each sample alone does not: {reason}")

    def _report(self, timings: list[BatchTiming]) -> dict[str, Any]:
        return {
            "device": str(self.device),
            "threads": self.threads,
            "wire": "bulk" if self._is_bulk else "stock",
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

    def _say(self, facts: dict[str, Any]) -> None:
        who = {"model": getattr(self, "model", None), "version": getattr(self, "version", None), "pid": os.getpid()}
        logger.warning("%s %s", LOAD_MARKER, json.dumps({**who, **facts}))


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, arrays and numpy's numbers
        return value.tolist()
    raise ValueError(f"a {type(value).__name__} is not JSON")


def _refuse_foreign_package(model_dir: Path) -> None:
    """An archive runs its own `handlers`, or none: PYTHONPATH stands before the archive on a worker's path."""
    bundled = model_dir / "handlers"
    running = Path(__file__).resolve().parent
    if bundled.is_dir() and bundled.resolve() != running:
        raise LoadError(f"the package 'handlers' comes from {running}, not from the archive: unset PYTHONPATH")


def _digest(request: Incoming) -> bytes:
    return hashlib.sha256(request.media_type.encode() + b"\0" + request.body).digest()


def _where(error: Exception) -> str:
    """The error and the line that raised it, such as `KeyError: 'speces' (handler.py, line 25)`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
