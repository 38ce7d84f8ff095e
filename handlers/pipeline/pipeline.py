"""From a batch of requests to one outcome for each: decode, cache, model, encode.

Invariant: `answer` returns exactly one outcome per request, in order, and never raises for what a client sent or a
model did.
"""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from pydantic_core import to_json

from handlers.cache.keys import canonical
from handlers.cache.local import Directive, Lookup, ResponseCache, directive
from handlers.contract import DEADLINE_HEADER
from handlers.device import finish, is_fatal, is_out_of_memory
from handlers.errors import (
    DeadlinePassed,
    ModelFailed,
    RequestError,
    UndecodableBody,
    UnreadableHeader,
    UnsupportedMedia,
)
from handlers.messages import Incoming, Outgoing, problem, refuse_large, sniff
from handlers.pipeline.batch_sizes import batch_sizes, padded_size
from handlers.pipeline.isolation import Broken, GaveUp, Isolation, Quarantine
from handlers.schema import finite_json
from handlers.telemetry.metrics import Telemetry
from handlers.worker.config import Serving

logger = logging.getLogger(__name__)

LONGEST_MOMENT = 15
#: How long, in seconds, and how many items that made the model fail are not tried again.
QUARANTINE_S = 60
QUARANTINED = 1024


class Steps(Protocol):
    """What the author of a model wrote; see ServingHandler, whose methods these are."""

    media_types: ClassVar[Sequence[str]]
    device: torch.device

    def decode(self, body: bytes, media_type: str) -> Any: ...
    def prepare(self, items: list[Any]) -> list[Any]: ...
    def preprocess(self, items: list[Any]) -> Any: ...
    def inference(self, inputs: Any) -> Any: ...
    def postprocess(self, outputs: Any) -> list[Any]: ...


class RequestPath:
    """The way of every request through one worker.

    Args:
        steps: the handler.
        pads: whether batches are filled up to a warmed size, because the device runs compiled graphs.
    """

    def __init__(self, steps: Steps, serving: Serving, pads: bool) -> None:
        self._steps = steps
        self._serving = serving
        self._telemetry = Telemetry()
        self._sizes = batch_sizes(serving.batch_size) if pads else []
        self._times: dict[str, float] = {}
        self._cache: ResponseCache | None = None
        self._quarantine = Quarantine(QUARANTINE_S, QUARANTINED, time.monotonic)
        budget_s = serving.response_timeout_s / 2
        self._preparing, self._running = (
            Isolation(run, is_out_of_memory, is_fatal, budget_s, time.monotonic, self._on_split)
            for run in (self._prepare, self._run)
        )
        self._has_been_wrong = False
        self.last_failure = ""  # what the model raised last, and where; for whoever runs the node, never for a client

    @property
    def is_broken(self) -> bool:
        """Whether the device has failed, so that this process can answer nothing any more."""
        return self._running.is_broken or self._preparing.is_broken

    @property
    def last_split(self) -> str:
        """Why a batch was last halved; empty where none was."""
        return self._running.last_split or self._preparing.last_split

    def open(self, cache: ResponseCache | None, telemetry: Telemetry) -> None:
        """From now on requests come from clients: they may be answered from the cache, and their times count."""
        self._cache = cache
        self._telemetry = telemetry
        self._times.clear()

    def answer(self, requests: Sequence[Incoming]) -> list[Outgoing]:
        """One outcome for each request, in order."""
        outcomes: list[Outgoing | None] = [None] * len(requests)
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
        found = self._compute(decoded, items) if self._cache is None else self._cached(self._cache, decoded, items)
        for index, outcome in zip(indices, found, strict=True):
            outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def tell(self, outcomes: Sequence[Outgoing]) -> None:
        """Put what one batch came to into the metrics."""
        if not self._telemetry.is_on:
            return
        counts: dict[str, int] = {"ok": len(outcomes)}
        for one in outcomes:
            if one.error is not None:
                counts[one.error.kind] = counts.get(one.error.kind, 0) + 1
                counts["ok"] -= 1
        self._telemetry.batch(len(outcomes), counts, self._times)
        self._times = {}

    # ---- decode --------------------------------------------------------------------------------------------------

    def _decode(self, request: Incoming) -> Any:
        steps = self._steps
        if request.headers:
            self._refuse_late(request.headers.get(DEADLINE_HEADER))
        refuse_large(request.body, self._serving.request_bytes)
        if not request.body:
            raise UndecodableBody("The request has no body.")
        media_type = request.media_type or sniff(request.body)
        if self._quarantine and self._quarantine.holds(_digest(request)):
            raise ModelFailed(
                f"The same request made the model fail less than {QUARANTINE_S} s ago; it is not tried again so soon."
            )
        if media_type not in steps.media_types:
            known = ", ".join(steps.media_types)
            raise UnsupportedMedia(f"Content-Type {media_type} is not read here; send one of {known}.")
        try:
            return steps.decode(request.body, media_type)
        except (RequestError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # a panic of the parser's Rust code is no Exception
            logger.exception("%s: decoding request %s failed", self._who, request.request_id)
            raise ModelFailed("The handler failed while it decoded the request.") from None

    def _refuse_late(self, sent: str | None) -> None:
        """Nobody waits for an answer after its deadline, so nothing is computed for it."""
        if sent is None:
            return
        if not (sent.isascii() and sent.isdigit()) or len(sent) > LONGEST_MOMENT:
            raise UnreadableHeader(f"{DEADLINE_HEADER} must be a moment in milliseconds since 1970, as a whole number.")
        if time.time() * 1000 >= int(sent):
            raise DeadlinePassed("The deadline had passed before the request was computed.")

    # ---- cache ---------------------------------------------------------------------------------------------------

    def _cached(self, cache: ResponseCache, requests: Sequence[Incoming], items: list[Any]) -> list[Outgoing]:
        """As `_compute`, but what is known is not computed, and what is equal is computed once."""
        wishes = [directive(request.headers.get("cache-control")) for request in requests]
        keys = []
        for position, (request, item) in enumerate(zip(requests, items, strict=True)):
            try:
                keys.append(request_key(cache, request, item))
            except TypeError:  # the samples had keys; a rare value of a request need not
                keys.append(b"")
                wishes[position] = Directive.LEAVE
        lookup = cache.look_up(keys, wishes)
        computed = self._compute([requests[i] for i in lookup.compute], [items[i] for i in lookup.compute])
        outcomes = {position: Outgoing(200, body, cache="hit") for position, body in lookup.found.items()}
        fresh: dict[bytes, bytes] = {}
        for position, outcome in zip(lookup.compute, computed, strict=True):
            outcome.cache = "miss" if wishes[position] is Directive.USE else "bypass"
            if position in lookup.checked:
                outcome = self._check(cache, lookup.checked[position], outcome)
            if outcome.status == 200 and outcome.cache != "hit" and wishes[position] is not Directive.LEAVE:
                fresh[keys[position]] = outcome.body
            outcomes[position] = outcome
        for position, first in lookup.same.items():
            outcomes[position] = self._same(outcomes[first], requests[position])
        cache.keep(fresh)
        self._tell_cache(lookup, outcomes)
        return [outcomes[position] for position in range(len(requests))]

    def _check(self, cache: ResponseCache, known: bytes, outcome: Outgoing) -> Outgoing:
        """The answer to an item that was computed though it was known: the known one, unless that is wrong."""
        if outcome.status != 200 or cache.is_right(known, outcome.body):
            return Outgoing(200, known, cache="hit")
        if not self._has_been_wrong:  # once: a model that answers otherwise each time would fill the log
            logger.error("%s: a remembered answer was wrong, and is replaced; later ones are counted", self._who)
            self._has_been_wrong = True
        self._telemetry.cache("wrong", "none", 1)
        return outcome

    def _same(self, outcome: Outgoing, request: Incoming) -> Outgoing:
        """The outcome of an equal item of the same batch, for this request."""
        if outcome.error is not None:
            return self._problem(outcome.error, request, "hit")
        return Outgoing(200, outcome.body, cache="hit")

    def _tell_cache(self, lookup: Lookup, outcomes: Mapping[int, Outgoing]) -> None:
        if not self._telemetry.is_on:
            return
        tiers = Counter(
            (outcome.cache, lookup.tiers.get(position, "batch" if position in lookup.same else "none"))
            for position, outcome in outcomes.items()
        )
        for (result, tier), items in tiers.items():
            self._telemetry.cache(result, "none" if result != "hit" else tier, items)

    # ---- model ---------------------------------------------------------------------------------------------------

    def _compute(self, requests: Sequence[Incoming], items: list[Any]) -> list[Outgoing]:
        """What the model answers to decoded items."""
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
            prepared = list(self._steps.prepare(list(items)))
        if len(prepared) != len(items):
            raise ValueError(f"prepare returned {len(prepared)} items for {len(items)}")
        return prepared

    def _run(self, items: Sequence[Any]) -> list[Any]:
        steps, count = self._steps, len(items)
        padding = padded_size(count, self._sizes) - count
        with torch.inference_mode():
            with self._timed("preprocess"):
                inputs = steps.preprocess([*items, *[items[-1]] * padding])
            with self._timed("inference"):
                outputs = steps.inference(inputs)
                if self._telemetry.is_on:
                    finish(steps.device)  # or the GPU's time would be taken for postprocess's
            with self._timed("postprocess"):
                answers = list(steps.postprocess(outputs))
        if len(answers) != count + padding:
            raise ValueError(f"postprocess returned {len(answers)} answers for {count + padding} items")
        if self._sizes:
            self._telemetry.padding(count, padding)
        return answers[:count]

    def _failure(self, error: Exception, request: Incoming) -> RequestError:
        """What the client of an item is told whose batch raised this, once the item stood alone."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, GaveUp):
            logger.error("%s: %s; the batch had failed by %s", self._who, error, self.last_split)
            return ModelFailed("Its batch failed, and there was no time to find out which item made it fail.")
        logger.error("%s: the model failed on an item", self._who, exc_info=error)
        self.last_failure = _where(error)
        if isinstance(error, Broken):
            return ModelFailed("The worker's device failed; the worker starts anew.")
        self._quarantine.add(_digest(request))
        if is_out_of_memory(error):
            return ModelFailed("The item alone needs more memory than there is.")
        return ModelFailed("The model raised an error on this item; other items were not affected.")

    def _encode(self, answer: Any, request: Incoming) -> Outgoing:
        try:
            body = to_json(answer, fallback=_as_list, inf_nan_mode="constants")
        except ValueError:  # pydantic's serialisation error is one
            logger.exception("%s: an answer cannot be encoded", self._who)
            return self._problem(ModelFailed("The model's answer cannot be written as JSON."), request)
        if not finite_json(body):
            return self._problem(ModelFailed("The model answered NaN or infinity."), request)
        return Outgoing(200, body)

    def _problem(self, error: RequestError, request: Incoming, cache: str = "") -> Outgoing:
        outcome = problem(error, request.request_id, self._serving.model, self._serving.version)
        outcome.cache = cache
        return outcome

    def _on_split(self, is_memory: bool) -> None:
        if is_memory:
            self._telemetry.memory_split()
        else:
            self._telemetry.bisection()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._times[stage] = self._times.get(stage, 0.0) + time.perf_counter() - begin

    @property
    def _who(self) -> str:
        return f"{self._serving.model} {self._serving.version}"


def request_key(cache: ResponseCache, request: Incoming, item: Any) -> bytes:
    """The cache's key of a decoded request.

    Raises:
        TypeError: what `decode` returned has no canonical bytes.
    """
    return cache.key(request.media_type or sniff(request.body), canonical(item))


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, arrays and numpy's numbers
        return value.tolist()
    raise ValueError(f"a {type(value).__name__} is not JSON")


def _digest(request: Incoming) -> bytes:
    return hashlib.sha256(request.media_type.encode() + b"\0" + request.body).digest()


def _where(error: Exception) -> str:
    """The error and the line that raised it, such as `KeyError: 'speces' (handler.py, line 25)`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
