"""The life cycle and request path that every handler shares: one outcome per item, whatever happens.

Invariant: `handle` returns exactly one answer per item, in order, and never raises for what a client sent or a
model did; `initialize` either leaves a warm worker whose answers to the samples are right, or raises.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from pydantic_core import to_json

from handlers import wire
from handlers.device import choose_device, set_threads, threads_per_worker, usable_cores
from handlers.errors import (
    LoadError,
    ModelFailed,
    NotImplementedHere,
    PayloadTooLarge,
    RequestError,
    UndecodableBody,
    UnsupportedMedia,
)
from handlers.golden import Tolerance, difference
from handlers.items import JSON, Incoming, Outgoing, problem, read_item, request_id_of, sniff
from handlers.samples import Sample, read_requests, read_samples
from handlers.schema import Schema, finite_json, parse_json
from handlers.warmup import BatchTiming, batch_sizes, warm_up
from handlers.weights import import_file, load_weights

logger = logging.getLogger(__name__)

#: Begins the one log line in which a worker says how its load ended; tsctl reads it back from the node's log.
LOAD_MARKER = "[TSCTL LOAD]"


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
    _halved_by = ""  # why a batch was last answered in halves

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
                raise LoadError(f"warm-up at batch {size} failed: {failed.body.decode()}")

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
                raise LoadError(f"sample {name}: answered {answer.status}: {answer.body.decode()}")
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
        for index, result in zip(indices, self._predict(items), strict=True):
            request = requests[index]
            if isinstance(result, RequestError):
                outcomes[index] = self._problem(result, request)
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
        if len(request.body) > self._max_request_bytes:
            raise PayloadTooLarge(
                f"The body has {len(request.body)} bytes; at most {self._max_request_bytes} may come."
            )
        if not request.body:
            raise UndecodableBody("The request has no body.")
        media_type = request.media_type or sniff(request.body)
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

    def _predict(self, items: list[Any]) -> list[Any]:
        """An answer or a RequestError for each item: a batch that fails is halved until the failing item is alone."""
        if not items:
            return []
        try:
            return self._run(items)
        except RequestError as error:
            if len(items) == 1:
                return [error]
            self._halved_by = f"{type(error).__name__}: {error}"
        except Exception as error:
            if len(items) == 1:
                logger.exception("%s %s: the model failed on an item", self.model, self.version)
                return [ModelFailed("The model raised an error on this item; other items were not affected.")]
            self._halved_by = f"{type(error).__name__}: {error}"
        half = len(items) // 2
        return self._predict(items[:half]) + self._predict(items[half:])

    def _run(self, items: list[Any]) -> list[Any]:
        with torch.inference_mode():
            answers = list(self.postprocess(self.inference(self.preprocess(items))))
        if len(answers) != len(items):
            raise ValueError(f"postprocess returned {len(answers)} answers for {len(items)} items")
        return answers

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
        self._wants_bulk = serving.get("wire", "bulk") == "bulk"
        self.device = torch.device(choose_device(properties.get("gpu_id"), torch.cuda.device_count()))
        self.threads = threads_per_worker(serving.get("threads"), usable_cores(), config.get("maxWorkers", 1))
        set_threads(self.threads)

    def _prove(self) -> None:
        """Compare the answers to all samples, alone and as one batch, with the golden ones."""
        alone = [self.answer([sample.request])[0] for sample in self._samples]
        together: list[Outgoing] = []
        for begin in range(0, len(self._samples), self.batch_size):
            together += self.answer([sample.request for sample in self._samples[begin : begin + self.batch_size]])
        for how, answers in (("alone", alone), ("in a batch", together)):
            for sample, answer in zip(self._samples, answers, strict=True):
                self._prove_one(sample, answer, how)

    def _prove_one(self, sample: Sample, answer: Outgoing, how: str) -> None:
        if answer.status != 200:
            raise LoadError(f"sample {sample.name}, {how}: answered {answer.status}: {answer.body.decode()}")
        found = difference(json.loads(answer.body), sample.golden, self._tolerance)
        if found:
            raise LoadError(f"sample {sample.name}, {how}, is not the golden answer: {found}")

    def _refuse_halved(self) -> None:
        """Every answer was right, but a batch of samples failed as a whole and was answered in halves: no worker may
        serve that pays for each batch several times."""
        if self._halved_by:
            raise LoadError(f"a batch of samples fails, though each sample alone does not: {self._halved_by}")

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
