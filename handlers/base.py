"""The class that the author of a model derives from.

Its methods are the steps of a request; it does not depend on any server. The worker (`handlers/worker/worker.py`) sets
the attributes and calls `load` and `warmup` once. Then it calls `decode` or `decode_row` per request, the next methods
per batch, and `classify` per answer, in this order. A thread calls `summarize` and `redact` for each record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel

from handlers.batching import Costs, cheapest_parts, micro_batches
from handlers.contract import JSON
from handlers.own_comparator import ComparesAnswers
from handlers.records.summary import Features, features
from handlers.schema import Schema, parse_json, row_json, validate
from handlers.telemetry.metrics import Telemetry
from handlers.weights import import_file, load_weights


class ServingHandler(ComparesAnswers):
    """Base of all handlers.

    Set `Request` and override `preprocess` and `postprocess`; override `load`, `inference` and the other methods if
    the defaults do not fit. Before `load`, the worker sets the attributes below; the default `load` sets `network`.
    """

    #: Schema of a JSON body; a body that does not fit is answered 422.
    Request: type[BaseModel] = Schema
    #: Media types that `decode` reads; any other is answered 415.
    media_types: ClassVar[Sequence[str]] = (JSON,)
    #: Whether all items have one shape; False for text, whose network is compiled for any length.
    is_fixed_shape: ClassVar[bool] = True
    #: Whether equal requests have equal answers; False keeps them out of the cache.
    is_deterministic: ClassVar[bool] = True
    #: Whether answers are texts that come token by token; handlers/text_generation.py has the base of those.
    is_generative: ClassVar[bool] = False

    model: str
    version: str
    model_dir: Path  # the unpacked archive
    weights_file: Path
    settings: dict[str, Any]  # from archive.yaml
    device: torch.device
    threads: int  # torch's intra-op threads
    batch_size: int
    batch_tokens: int  # padded tokens of a text model's micro-batch, where archive.yaml says so or nothing is measured
    token_costs: Costs | None = None  # of micro-batches, measured at warm-up; None: `batch_tokens` is the budget
    telemetry: Telemetry = Telemetry()
    warm_samples: Callable[[], list[Any]]  # runs the samples at each batch size; returns the timings
    network: torch.nn.Module

    # ---- once, before the worker is ready ------------------------------------------------------------------------

    def load(self) -> None:
        """Make the model ready in memory: `build(settings)` of the archive's model.py, filled with its weights.

        Raises:
            LoadError: model.py or the weights are missing, or do not fit each other.
        """
        network = import_file(self.model_dir / "model.py").build(self.settings)
        network.load_state_dict(load_weights(self.weights_file))
        self.network = network.to(self.device).eval()

    def warmup(self) -> list[Any]:
        """Run the samples through all steps at batch 1, 2, 4 ... batch_size until the latency settles.

        Raises:
            LoadError: an answer is not a 200.
        """
        return self.warm_samples()

    def probe(self, prepared: list[Any], tokens: int) -> int:
        """Run one micro-batch of about so many padded tokens, for a handler that cuts its batches by `split`.

        Args:
            prepared: the archive's samples, after `prepare`, without those that it rejects; at least one.

        Returns:
            The padded tokens that it had, at least 1. It may have more than `tokens`, where one input is longer.
        """
        raise NotImplementedError(f"{type(self).__name__} does not cut batches by length")

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that the model reads of these texts. A handler that has it answers the OpenAI API's `/embeddings`.

        Its requests have a field `text`, and its answers one vector for each text in `embeddings`.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no embeddings")

    # ---- for each request ----------------------------------------------------------------------------------------

    def decode(self, body: bytes, media_type: str) -> Any:
        """Return the validated item. The cache key is made from it.

        Raises:
            RequestError: the body cannot be decoded, or does not fit.
        """
        return parse_json(self.Request, body)

    def decode_row(self, row: dict[str, Any]) -> Any:
        """Return the validated item of a decoded JSON object, such as a row of an Open Inference request.

        It equals the item that `decode` makes from that object's JSON. A handler that overrides `decode` but not
        `decode_row` gets the row as JSON in `decode`.

        Raises:
            RequestError: the object does not fit.
        """
        if type(self).decode is ServingHandler.decode:
            return validate(self.Request, row)
        return self.decode(row_json(self.Request, row), JSON)

    # ---- for each batch ------------------------------------------------------------------------------------------

    def prepare(self, items: list[Any]) -> list[Any]:
        """The decoded items as `preprocess` needs them: costly work, such as tokenising, on all items at once.

        Put a RequestError in the list to reject only that item.
        """
        return items

    def preprocess(self, items: list[Any]) -> Any:
        """Model input for 1 to `batch_size` prepared items; row i belongs to items[i]."""
        raise NotImplementedError(f"{type(self).__name__} must define preprocess")

    def inference(self, inputs: Any) -> Any:
        """The model's output for the inputs that `preprocess` returned; runs in inference mode."""
        return self.network(inputs)

    def postprocess(self, outputs: Any) -> list[Any]:
        """One JSON-able answer per item, in the order of the items; tensors and arrays become lists.

        Put a RequestError in the list to reject only that item.
        """
        raise NotImplementedError(f"{type(self).__name__} must define postprocess")

    def split(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of inputs of these lengths that go through the model together, longest first; every index once."""
        if self.token_costs is None:
            return micro_batches(lengths, self.batch_tokens)
        return cheapest_parts(lengths, self.token_costs)

    def classify(self, answer: Any) -> str | None:
        """The class that an answer predicts, one of a few; None if there are no classes.

        The gateway counts it by version, so that a rollout notices predictions that fall into other classes. A name has
        letters, digits and `_.:-`, 64 at most; any other name is ignored. `answer` is one entry of the list
        that `postprocess` returned.
        """
        return None

    # ---- for each record, in another thread than the requests ----------------------------------------------------

    def summarize(self, item: Any) -> Features:
        """What the record of a prediction says of a validated item: a float for each number, a str for each category.

        By default texts are only counted, unless the schema limits them to a few.
        """
        return features(item)

    def redact(self, item: Any) -> Any:
        """The validated item as it may be kept where `records.input_days` is set, in a form that can be sent again.

        Return the JSON value of a request's body; `{"media_type": ..., "body": <bytes>}` for a body that is no JSON; or
        None, which keeps nothing. Return a copy: the item may still be on its way through the model.
        """
        return item
